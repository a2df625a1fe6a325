"""Both generations of the VAE: causal convolutions over pieces of a clip, arrays in and arrays out."""
