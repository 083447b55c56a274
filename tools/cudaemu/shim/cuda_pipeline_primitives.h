// cp.async, as CUDA's header of this name has it: a copy is there after the wait that covers it, not before.
#pragma once

CUDAEMU_QUIET void __pipeline_memcpy_async(void* to, const void* from, size_t size, size_t zeros = 0) {
    cudaemu::cudaemu_async_copy(to, from, unsigned(size), unsigned(zeros), CUDAEMU_SITE);
}
CUDAEMU_QUIET void __pipeline_commit() { cudaemu::cudaemu_async_commit(); }
CUDAEMU_QUIET void __pipeline_wait_prior(unsigned left) { cudaemu::cudaemu_async_wait(left); }
