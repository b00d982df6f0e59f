"""Jobs on a RabbitMQ server; see `broker`."""
