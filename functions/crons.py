"""What happens by itself, for everybody; what one channel asks for is in digest.py."""

from evolute import Crons, weekly
from functions import digest

crons = Crons()

crons.add(
    "a digest of every channel", weekly(day="monday", hour=6, timezone="Europe/Berlin"), digest.write_all, limit=500
)
