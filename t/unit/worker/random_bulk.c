/* The fuzz target's inputs that need no fuzzer: the same in each run. */

#define FUZZ_MAIN
#include "../../fuzz/fuzz_bulk.c"
