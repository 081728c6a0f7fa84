"""Handing frames to people who label them, and bringing in what they have finished."""
