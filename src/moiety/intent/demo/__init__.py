"""The demo of the intent wing."""
