"""What goes over the wire: JSON that comes in, JSON, events and errors that go out."""
