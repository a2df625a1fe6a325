"""Both generations of the VAE: causal convolutions over chunks of a clip, arrays in and arrays out."""
