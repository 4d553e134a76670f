"""GeneGAN: attribute transfer between two sets of images without pairs, at several resolutions."""
