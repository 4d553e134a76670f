"""The parts of `roundhouse.round`: what a round file may say, and what its groups expand to."""
