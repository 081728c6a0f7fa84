"""What the command line does, a file a theme. Nothing here knows a rule: it calls the jobs and shows what they did."""
