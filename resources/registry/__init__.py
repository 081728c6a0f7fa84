"""Where models are registered: versions, aliases, lineage and approval."""
