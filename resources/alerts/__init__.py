"""Where somebody is told that something needs a look."""
