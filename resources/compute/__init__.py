"""Where step programs run: a subprocess here, managed jobs in a cloud."""
