"""What must not be lost: builds that are killed, inputs that lie, stores that fail."""
