"""What runs on compute: folders and a JSON file of parameters in, a folder out.

A program never knows which cloud it runs on, or whether Dagster started it: each can be run by hand with
`python -m detection_assets.programs.<program> --help`.
"""
