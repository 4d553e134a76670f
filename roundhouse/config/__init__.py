"""The parts of `roundhouse.config.round`: what a round file may say, and what its groups expand to."""
