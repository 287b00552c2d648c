"""Generate requests that try to break the contract of the service, and check its responses."""
