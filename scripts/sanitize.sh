#!/usr/bin/env bash
# Build the kernels with sanitizers, in build/sanitize/, and run the tests on them (CONTRIBUTING.md).
#
#   scripts/sanitize.sh address|thread|delays avx2|avx512|wide|baseline [pytest's arguments]
#
# address: AddressSanitizer and UndefinedBehaviorSanitizer, thread: ThreadSanitizer, delays: no sanitizer, but threads
# sleep now and then where losing their core could do harm. avx2, avx512, baseline: a build of the kernels. wide: the
# vectors and register tiles of AVX-512, made of AVX2 instructions, for processors without it.
# CC=clang, PYTHON=... choose another compiler or Python.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -lt 2 ]; then
    sed -n '2,9s/^# \?//p' "$0"
    exit 2
fi
sanitizer=$1 kernels=$2 python=${PYTHON:-python}
base=$PWD/build/sanitize/$sanitizer-$kernels
shift 2
[ $# -gt 0 ] || set -- tests

export CC=${CC:-gcc} CNN_VARIANTS=$kernels
if [ "$kernels" = wide ]; then
    export CNN_WIDE=1 CNN_VARIANTS=avx2
fi
options=() fixed_addresses=() libraries=()
case $sanitizer in
address)
    export CNN_SANITIZE=address,undefined
    # libstdc++ too: AddressSanitizer looks for its exceptions as soon as it starts
    libraries=(libasan.so libubsan.so libstdc++.so)
    [[ $CC != clang* ]] || libraries=(libclang_rt.asan-x86_64.so libstdc++.so)
    # PYTHONMALLOC: each object has guarded memory of its own. Leaks: Python never frees everything at its end.
    options=(PYTHONMALLOC=malloc UBSAN_OPTIONS=print_stacktrace=1
        ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:handle_segv=2:abort_on_error=1)
    ;;
thread)
    export CNN_SANITIZE=thread
    libraries=(libtsan.so)
    [[ $CC != clang* ]] || libraries=(libclang_rt.tsan-x86_64.so)
    # OpenBLAS hands work to its threads in ways that ThreadSanitizer cannot see.
    options=(OPENBLAS_NUM_THREADS=1 TSAN_OPTIONS=halt_on_error=1:abort_on_error=1:history_size=7)
    fixed_addresses=(setarch -R)    # with random ones there may be no room for its tables
    ;;
delays)
    export CNN_SANITIZE=delays
    ;;
*)
    echo "$0: address, thread or delays, got $sanitizer" >&2
    exit 2
    ;;
esac

"$python" setup.py -q build --build-base "$base" --build-lib "$base/lib"

# The run-time libraries must be there before Python, which does not know of them. -P: the sources have no kernels.
preload=
for library in "${libraries[@]}"; do
    preload+=" $(realpath "$("$CC" -print-file-name="$library")")"
done
exec "${fixed_addresses[@]}" env PYTHONPATH="$base/lib" ${preload:+LD_PRELOAD="$preload"} "${options[@]}" \
    "$python" -P -m pytest -q -p no:cacheprovider "$@"
