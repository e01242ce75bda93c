"""An ordered, durable byte store: keys and values are bytes, and nothing here knows what a document is."""
