"""Our speed beside the anchors, measured side by side in one run and told as ratios. Not tests: machines differ."""
