"""The job resource, its states and events, and the store that keeps them: the only shared state of the service."""
