"""What starts runs: jobs that people launch, sensors that react, schedules that repeat.

They know assets by their keys.
"""
