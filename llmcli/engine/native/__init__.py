"""One-token steps of GPT-2 in C, for processors with AVX-512; see native.h."""
