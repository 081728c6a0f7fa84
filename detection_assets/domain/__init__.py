"""The rules of detection on video, as plain functions over plain tables.

Nothing in this room knows Dagster, a cloud or torch, so every rule can be tested as a table of cases.
"""
