"""The sync protocol as plain data: `messages` says what is said, `codec` alone knows how it is spelt."""
