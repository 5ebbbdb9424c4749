"""Winograd's transforms in one dimension, each matrix as sums by hand: F(2, 3) with N = 4 points, F(4, 3) and F(2, 5)
with N = 6. The formulas stand in winograd.pyx.

The points are 0, P, -P, Q, -Q and infinity with P = 5/8 and Q = 3/2 (N = 6) or 0, 1, -1 and infinity (N = 4). With
P = 1 and Q = 2, as published, rounding errors would be three to five times as large; all powers of P and Q that occur
are exact in float32.

So that large numbers stay finite, B^T for N = 6 is halved here, and the values at Q and -Q in A^T of F(4, 3) are
quartered; G makes up for it. The plain-NumPy twin is `winograd_matrices` in cnn/reference.
"""
from cnn._ext.vec cimport vec

cdef extern from *:
    """
    /* a number times a vector */
    #define scaled(s, v) ((real)(s) * (v))
    #define P 0.625
    #define Q 1.5
    #define P2 (P * P)
    #define Q2 (Q * Q)
    """
    const double P, Q, P2, Q2
    vec scaled(double s, vec v) nogil


cdef inline void input_line(const vec* x, vec* v, int N) noexcept nogil:
    """v = B^T x."""
    cdef vec even, odd, last
    if N == 4:
        v[0] = x[0] - x[2]
        v[1] = x[1] + x[2]
        v[2] = x[2] - x[1]
        v[3] = x[1] - x[3]
    else:
        last = scaled(0.5, x[4])
        v[0] = scaled(0.5 * P2 * Q2, x[0]) - scaled(0.5 * (P2 + Q2), x[2]) + last
        even = last - scaled(0.5 * Q2, x[2])
        odd = x[3] - scaled(Q2, x[1])
        v[1] = even + scaled(0.5 * P, odd)
        v[2] = even - scaled(0.5 * P, odd)
        even = last - scaled(0.5 * P2, x[2])
        odd = x[3] - scaled(P2, x[1])
        v[3] = even + scaled(0.5 * Q, odd)
        v[4] = even - scaled(0.5 * Q, odd)
        v[5] = scaled(0.5 * P2 * Q2, x[1]) - scaled(0.5 * (P2 + Q2), x[3]) + scaled(0.5, x[5])


cdef inline void input_line_backward(const vec* v, vec* x, int N) noexcept nogil:
    """x = B v."""
    cdef vec sum1, sum2, difference1, difference2
    if N == 4:
        x[0] = v[0]
        x[1] = v[1] - v[2] + v[3]
        x[2] = v[1] + v[2] - v[0]
        x[3] = -v[3]
    else:
        sum1 = v[1] + v[2]
        difference1 = v[1] - v[2]
        sum2 = v[3] + v[4]
        difference2 = v[3] - v[4]
        x[0] = scaled(0.5 * P2 * Q2, v[0])
        x[1] = scaled(0.5 * P2 * Q2, v[5]) - scaled(0.5 * P * Q2, difference1) - scaled(0.5 * P2 * Q, difference2)
        x[2] = -scaled(0.5 * (P2 + Q2), v[0]) - scaled(0.5 * Q2, sum1) - scaled(0.5 * P2, sum2)
        x[3] = scaled(0.5 * P, difference1) + scaled(0.5 * Q, difference2) - scaled(0.5 * (P2 + Q2), v[5])
        x[4] = scaled(0.5, v[0] + sum1 + sum2)
        x[5] = scaled(0.5, v[5])


cdef inline void output_line(const vec* p, vec* y, int M, int N) noexcept nogil:
    """y = A^T p."""
    cdef vec sum1, sum2, difference1, difference2
    sum1 = p[1] + p[2]
    difference1 = p[1] - p[2]
    if N == 4:
        y[0] = p[0] + sum1
        y[1] = difference1 - p[3]
        return
    sum2 = p[3] + p[4]
    difference2 = p[3] - p[4]
    if M == 2:
        y[0] = p[0] + sum1 + sum2
        y[1] = scaled(P, difference1) + scaled(Q, difference2) + p[5]
    else:
        y[0] = p[0] + sum1 + scaled(0.25, sum2)
        y[1] = scaled(P, difference1) + scaled(0.25 * Q, difference2)
        y[2] = scaled(P2, sum1) + scaled(0.25 * Q2, sum2)
        y[3] = scaled(P * P2, difference1) + scaled(0.25 * Q * Q2, difference2) + p[5]


cdef inline void output_line_backward(const vec* y, vec* d, int M, int N) noexcept nogil:
    """d = A y."""
    cdef vec even, odd
    d[0] = y[0]
    if N == 4:
        d[1] = y[0] + y[1]
        d[2] = y[0] - y[1]
        d[3] = -y[1]
    elif M == 2:
        d[1] = y[0] + scaled(P, y[1])
        d[2] = y[0] - scaled(P, y[1])
        d[3] = y[0] + scaled(Q, y[1])
        d[4] = y[0] - scaled(Q, y[1])
        d[5] = y[1]
    else:
        even = y[0] + scaled(P2, y[2])
        odd = y[1] + scaled(P2, y[3])
        d[1] = even + scaled(P, odd)
        d[2] = even - scaled(P, odd)
        even = scaled(0.25, y[0]) + scaled(0.25 * Q2, y[2])
        odd = y[1] + scaled(Q2, y[3])
        d[3] = even + scaled(0.25 * Q, odd)
        d[4] = even - scaled(0.25 * Q, odd)
        d[5] = y[3]


cdef inline void weight_line(const vec* w, vec* u, int R, int N) noexcept nogil:
    """u = G w."""
    cdef vec even, odd
    if N == 4:
        even = scaled(0.5, w[0] + w[2])
        odd = scaled(0.5, w[1])
        u[0] = w[0]
        u[1] = even + odd
        u[2] = even - odd
        u[3] = w[2]
        return
    u[0] = scaled(2 / (P2 * Q2), w[0])
    even = w[0] + scaled(P2, w[2])
    odd = scaled(P, w[1])
    if R == 5:
        even = even + scaled(P2 * P2, w[4])
        odd = odd + scaled(P * P2, w[3])
    u[1] = scaled(1 / (P2 * (P2 - Q2)), even + odd)
    u[2] = scaled(1 / (P2 * (P2 - Q2)), even - odd)
    even = w[0] + scaled(Q2, w[2])
    odd = scaled(Q, w[1])
    if R == 5:
        even = even + scaled(Q2 * Q2, w[4])
        odd = odd + scaled(Q * Q2, w[3])
    u[3] = scaled((4 if R == 3 else 1) / (Q2 * (Q2 - P2)), even + odd)
    u[4] = scaled((4 if R == 3 else 1) / (Q2 * (Q2 - P2)), even - odd)
    u[5] = scaled(2, w[R - 1])


cdef inline void weight_line_backward(const vec* u, vec* w, int R, int N) noexcept nogil:
    """w = G^T u."""
    cdef vec sum1, sum2, difference1, difference2
    if N == 4:
        w[0] = u[0] + scaled(0.5, u[1] + u[2])
        w[1] = scaled(0.5, u[1] - u[2])
        w[2] = scaled(0.5, u[1] + u[2]) + u[3]
        return
    sum1 = scaled(1 / (P2 * (P2 - Q2)), u[1] + u[2])
    difference1 = scaled(1 / (P2 * (P2 - Q2)), u[1] - u[2])
    sum2 = scaled((4 if R == 3 else 1) / (Q2 * (Q2 - P2)), u[3] + u[4])
    difference2 = scaled((4 if R == 3 else 1) / (Q2 * (Q2 - P2)), u[3] - u[4])
    w[0] = scaled(2 / (P2 * Q2), u[0]) + sum1 + sum2
    w[1] = scaled(P, difference1) + scaled(Q, difference2)
    w[2] = scaled(P2, sum1) + scaled(Q2, sum2)
    if R == 5:
        w[3] = scaled(P * P2, difference1) + scaled(Q * Q2, difference2)
        w[4] = scaled(P2 * P2, sum1) + scaled(Q2 * Q2, sum2)
    w[R - 1] = w[R - 1] + scaled(2, u[5])
