"""Detection Assets: from raw video to a monitored detector, as a graph of versioned assets.

The stages, in the order the data flows, a file each: raw_videos, extracted_frames, annotations, detection_dataset,
trained_weights, evaluation, registered_model, deployed_endpoint. `definitions.py` puts them together.
"""
