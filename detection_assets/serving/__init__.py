"""Answers pictures with boxes: one predictor on ONNX, and the HTTP app around it.

Nothing in this room knows torch, ultralytics, Dagster or a cloud: it starts in about a second and runs anywhere.
"""
