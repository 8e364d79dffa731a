"""The service: studies of recurrent networks, from the file a user writes to the answer."""
