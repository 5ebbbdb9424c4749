"""Random bits that depend on the seed, the step, the image's place in the batch and the element alone: any number of
threads, and both layouts, draw the same."""
from libc.stdint cimport uint32_t, uint64_t


cdef inline uint32_t scramble(uint32_t h) noexcept nogil:
    """A bijection of 32 bits in which every input bit moves every output bit (murmur3's finaliser)."""
    h = (h ^ (h >> 16)) * <uint32_t>0x85EBCA6B
    h = (h ^ (h >> 13)) * <uint32_t>0xC2B2AE35
    return h ^ (h >> 16)


cdef inline uint32_t image_hash(const uint64_t* key, Py_ssize_t image) noexcept nogil:
    """key: (2,) seed, step."""
    return scramble(scramble(scramble(<uint32_t>key[0]) ^ <uint32_t>key[1]) ^ <uint32_t>image)


cdef inline uint32_t element_hash(uint32_t image, uint32_t element) noexcept nogil:
    return scramble(image ^ (element * <uint32_t>0x9E3779B1))
