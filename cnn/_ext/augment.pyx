"""Random changes to images, each with numbers of its own for every image: NCHW bytes (or floats) in and out.

The caller draws the numbers, allocates y of x's shape and number type, and makes sure that all lengths agree.
Positions are integers, so that bytes come out the same on every processor.
"""
from cython.parallel cimport prange, threadid
from libc.math cimport rint
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

ctypedef fused pixel:
    uint8_t
    float


cdef inline Py_ssize_t reflected(Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """-1, -2, ... become 1, 2, ..., and n, n + 1, ... become n - 2, n - 3, ...: the edge is not repeated."""
    return -i if i < 0 else 2 * (n - 1) - i if i >= n else i


def gather(const pixel[:, :, :, ::1] x, const int64_t[::1] chosen, int threads, pixel[:, :, :, ::1] y):
    """y[n] = x[chosen[n]]."""
    cdef Py_ssize_t size = x.shape[1] * x.shape[2] * x.shape[3] * sizeof(pixel), n
    for n in prange(chosen.shape[0], nogil=True, num_threads=threads, schedule="dynamic", chunksize=16):
        memcpy(&y[n, 0, 0, 0], &x[chosen[n], 0, 0, 0], size)


cdef void crop_image(const pixel* x, Py_ssize_t C, Py_ssize_t H, Py_ssize_t W, Py_ssize_t top, Py_ssize_t left,
                     bint reflect, pixel* y) noexcept nogil:
    cdef Py_ssize_t c, i, j, row, first = min(max(0, -left), W), last = max(min(W, W - left), first)
    cdef const pixel* xp
    for c in range(C):
        for i in range(H):
            row = reflected(i + top, H) if reflect else i + top
            if 0 <= row < H:
                xp = x + (c * H + row) * W
                memcpy(y + first, xp + first + left, (last - first) * sizeof(pixel))
                for j in range(first):
                    y[j] = xp[reflected(j + left, W)] if reflect else 0
                for j in range(last, W):
                    y[j] = xp[reflected(j + left, W)] if reflect else 0
            else:
                memset(y, 0, W * sizeof(pixel))
            y += W


def crop(const pixel[:, :, :, ::1] x, const int64_t[::1] top, const int64_t[::1] left, bint reflect, int threads,
         pixel[:, :, :, ::1] y):
    """y[n, c, i, j] = x[n, c, i + top[n], j + left[n]]; outside of x is zero, or x reflected at its edges.

    Reflection wants offsets that are less than the sides.
    """
    cdef Py_ssize_t C = x.shape[1], H = x.shape[2], W = x.shape[3], n
    for n in prange(x.shape[0], nogil=True, num_threads=threads, schedule="dynamic", chunksize=16):
        crop_image(&x[n, 0, 0, 0], C, H, W, top[n], left[n], reflect, &y[n, 0, 0, 0])


cdef void flip_image(const pixel* x, Py_ssize_t rows, Py_ssize_t W, bint mirrored, pixel* y) noexcept nogil:
    cdef Py_ssize_t i, j
    if not mirrored:
        memcpy(y, x, rows * W * sizeof(pixel))
        return
    for i in range(rows):
        for j in range(W):
            y[i * W + j] = x[i * W + W - 1 - j]


def flip(const pixel[:, :, :, ::1] x, const uint8_t[::1] mirrored, int threads, pixel[:, :, :, ::1] y):
    """y[n, c, i, j] = x[n, c, i, W - 1 - j] where mirrored[n], else x[n, c, i, j]."""
    cdef Py_ssize_t rows = x.shape[1] * x.shape[2], W = x.shape[3], n
    for n in prange(x.shape[0], nogil=True, num_threads=threads, schedule="dynamic", chunksize=16):
        flip_image(&x[n, 0, 0, 0], rows, W, mirrored[n], &y[n, 0, 0, 0])


cdef void cutout_image(const pixel* x, Py_ssize_t C, Py_ssize_t H, Py_ssize_t W, Py_ssize_t top, Py_ssize_t left,
                       Py_ssize_t size, const pixel* fill, pixel* y) noexcept nogil:
    cdef Py_ssize_t c, i, j
    memcpy(y, x, C * H * W * sizeof(pixel))
    for c in range(C):
        for i in range(max(0, top), min(H, top + size)):
            for j in range(max(0, left), min(W, left + size)):
                y[(c * H + i) * W + j] = fill[c]


def cutout(const pixel[:, :, :, ::1] x, const int64_t[::1] top, const int64_t[::1] left, Py_ssize_t size,
           const pixel[::1] fill, int threads, pixel[:, :, :, ::1] y):
    """y = x, but fill[c] in rows top[n] to top[n] + size - 1 and columns left[n] to left[n] + size - 1."""
    cdef Py_ssize_t C = x.shape[1], H = x.shape[2], W = x.shape[3], n
    for n in prange(x.shape[0], nogil=True, num_threads=threads, schedule="dynamic", chunksize=16):
        cutout_image(&x[n, 0, 0, 0], C, H, W, top[n], left[n], size, &fill[0], &y[n, 0, 0, 0])


cdef inline int64_t fixed(double x) noexcept nogil:
    """x in units of 1 / 65536; what is cut off is far outside of any image."""
    return <int64_t>rint(max(-2.0 ** 40, min(2.0 ** 40, x * 65536)))


cdef void locate(const double* matrix, Py_ssize_t H, Py_ssize_t W, int32_t* at, uint16_t* fu,
                 uint16_t* fv) noexcept nogil:
    """Where each pixel comes from: the first of its four neighbours in an image with a border of one pixel, and
    the weights of the right and the lower ones, in 1 / 65536; the border's corner where that is outside."""
    cdef Py_ssize_t i, j, first, last
    cdef int64_t du = fixed(matrix[0]), dv = fixed(matrix[3]), u, v
    cdef int64_t row_u = fixed(matrix[1]), row_v = fixed(matrix[4])
    cdef uint64_t width = <uint64_t>(W + 1) << 16, height = <uint64_t>(H + 1) << 16
    cdef uint32_t step = <uint32_t>(W + 2), a, b
    memset(at, 0, H * W * sizeof(int32_t))
    memset(fu, 0, H * W * sizeof(uint16_t))
    memset(fv, 0, H * W * sizeof(uint16_t))
    for i in range(H):
        u = row_u * i + fixed(matrix[2]) + 65536    # from the border's corner, which is pixel (-1, -1)
        v = row_v * i + fixed(matrix[5]) + 65536
        first = 0                                   # a straight line is inside from one pixel to another
        last = W
        while first < last and not (<uint64_t>(u + first * du) < width and <uint64_t>(v + first * dv) < height):
            first += 1
        while first < last and not (<uint64_t>(u + (last - 1) * du) < width
                                    and <uint64_t>(v + (last - 1) * dv) < height):
            last -= 1
        a = <uint32_t>(u + first * du)              # 32 bits hold what is inside
        b = <uint32_t>(v + first * dv)
        for j in range(first, last):
            at[j] = <int32_t>((b >> 16) * step + (a >> 16))
            fu[j] = <uint16_t>a
            fv[j] = <uint16_t>b
            a += <uint32_t>du
            b += <uint32_t>dv
        at += W
        fu += W
        fv += W


cdef void blend_bytes(const uint8_t* x, Py_ssize_t step, const int32_t* at, const uint16_t* fu, const uint16_t* fv,
                      uint16_t* upper, uint16_t* lower, uint8_t* y, Py_ssize_t count) noexcept nogil:
    """The weighted mean of the four neighbours of each pixel, with 8 bits of each weight, rounded once."""
    cdef Py_ssize_t j
    cdef const uint8_t* p
    cdef uint16_t right, left, down, up, above, below
    for j in range(count):      # first fetch them in pairs, because compilers vectorise only what follows
        p = x + at[j]
        upper[j] = <uint16_t>(p[0] | p[1] << 8)
        lower[j] = <uint16_t>(p[step] | p[step + 1] << 8)
    for j in range(count):
        right = fu[j] >> 8
        down = fv[j] >> 8
        left = 256 - right
        up = 256 - down
        above = <uint16_t>((upper[j] & 0xFF) * left + (upper[j] >> 8) * right)
        below = <uint16_t>((lower[j] & 0xFF) * left + (lower[j] >> 8) * right)
        y[j] = <uint8_t>((<uint32_t>above * up + <uint32_t>below * down + (1 << 15)) >> 16)


cdef void blend_floats(const float* x, Py_ssize_t step, const int32_t* at, const uint16_t* fu, const uint16_t* fv,
                       float* y, Py_ssize_t count) noexcept nogil:
    """The same with all 16 bits of each weight."""
    cdef Py_ssize_t j
    cdef const float* p
    cdef float right, down, above, below
    for j in range(count):
        p = x + at[j]
        right = <float>fu[j] / 65536
        down = <float>fv[j] / 65536
        above = p[0] + (p[1] - p[0]) * right
        below = p[step] + (p[step + 1] - p[step]) * right
        y[j] = above + (below - above) * down


cdef void affine_image(const pixel* x, Py_ssize_t C, Py_ssize_t H, Py_ssize_t W, const double* matrix,
                       const pixel* fill, char* room, pixel* y) noexcept nogil:
    """`affine` for one image. room: 12 bytes for each pixel, and the padded image."""
    cdef Py_ssize_t size = H * W, step = W + 2, c, i
    cdef int32_t* at = <int32_t*>room
    cdef uint16_t* fu = <uint16_t*>(at + size)
    cdef uint16_t* fv = fu + size
    cdef uint16_t* upper = fv + size
    cdef uint16_t* lower = upper + size
    cdef pixel* padded = <pixel*>(lower + size)
    locate(matrix, H, W, at, fu, fv)
    for c in range(C):
        for i in range((H + 2) * step):
            padded[i] = fill[c]
        for i in range(H):
            memcpy(padded + (i + 1) * step + 1, x + (c * H + i) * W, W * sizeof(pixel))
        if pixel is uint8_t:
            blend_bytes(padded, step, at, fu, fv, upper, lower, y + c * size, size)
        else:
            blend_floats(padded, step, at, fu, fv, y + c * size, size)


def affine(const pixel[:, :, :, ::1] x, const double[:, ::1] matrix, const pixel[::1] fill, int threads,
           pixel[:, :, :, ::1] y):
    """y[n, c, i, j] = x[n, c] at column m0·j + m1·i + m2 and row m3·j + m4·i + m5, where m = matrix[n] is
    rounded to 1 / 65536 pixel: bilinear between pixels, and fill[c] outside.

    Sides must be less than 32768.
    """
    cdef Py_ssize_t N = x.shape[0], C = x.shape[1], H = x.shape[2], W = x.shape[3], n
    cdef Py_ssize_t need = 12 * H * W + (H + 2) * (W + 2) * sizeof(pixel) + 63 & -64
    cdef char* room = <char*>malloc(threads * need)
    if room == NULL:
        raise MemoryError("augment.affine: no memory to work in")
    for n in prange(N, nogil=True, num_threads=threads, schedule="dynamic", chunksize=16):
        affine_image(&x[n, 0, 0, 0], C, H, W, &matrix[n, 0], &fill[0], room + threadid() * need, &y[n, 0, 0, 0])
    free(room)
