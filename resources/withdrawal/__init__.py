"""Withdrawn videos: marked for good, kept from new datasets and deployments, and erased where that is asked for."""
