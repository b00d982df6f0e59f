"""The cases, a file for each or for a few that go together; see `order` for all of them."""
