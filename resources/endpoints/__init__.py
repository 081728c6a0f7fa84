"""Where models answer requests: slots, traffic, invocation."""
