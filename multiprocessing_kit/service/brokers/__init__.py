"""Where jobs wait: one contract (`base`), and the brokers that keep it, found by their URL (`opening`)."""
