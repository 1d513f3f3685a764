"""Real servers on loopback for the tests: a hub and file host, an S3 store, a proxy that loses replies."""
