/* A stand-in for the CUDA driver: memory is the host's, work is done at once, and the kernels of rows.ptx are written in C; others
   are found and launched, and do nothing.
   It checks what it is given where a driver would fail or go astray, and counts what is not given back. */
#define _POSIX_C_SOURCE 200809L
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int CUresult;
typedef uint64_t CUdeviceptr;

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, INVALID_PTX = 218, LAUNCH_OUT_OF_RESOURCES = 701 };
enum { MAX_BLOCKS = 4, MEMORY_POOLS = 115 };

static int live_memory, live_streams, live_modules, live_events, n_launches, n_allocations;

/* What a test asks in the end. */
CUresult shimLive(int *out) {
    int all[5] = {live_memory, live_streams, live_modules, live_events, n_launches};
    memcpy(out, all, sizeof all);
    return SUCCESS;
}

CUresult shimAllocations(int *out) { *out = n_allocations; return SUCCESS; }

CUresult cuInit(unsigned flags) { return flags == 0 ? SUCCESS : INVALID_VALUE; }
CUresult cuDeviceGet(int *device, int number) { *device = number; return number == 0 ? SUCCESS : 101; }
CUresult cuDevicePrimaryCtxRetain(void **context, int device) { (void)device; *context = (void *)1; return SUCCESS; }
CUresult cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return SUCCESS; }
CUresult cuCtxSetCurrent(void *context) { return context == (void *)1 ? SUCCESS : INVALID_VALUE; }
CUresult cuCtxGetCurrent(void **context) { *context = (void *)1; return SUCCESS; }
CUresult cuCtxSynchronize(void) { return SUCCESS; }

CUresult cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    switch (attribute) {
    case 1: *value = 1024; break;      /* threads of a block */
    case 5: *value = MAX_BLOCKS; break; /* blocks along x */
    case 75: *value = 8; break;        /* compute capability */
    case 76: *value = 7; break;
    case MEMORY_POOLS: *value = 1; break;
    default: *value = 0;
    }
    return SUCCESS;
}

CUresult cuStreamCreate(void **stream, unsigned flags) { (void)flags; live_streams++; *stream = malloc(1); return SUCCESS; }
CUresult cuStreamDestroy_v2(void *stream) { live_streams--; free(stream); return SUCCESS; }
CUresult cuStreamSynchronize(void *stream) { (void)stream; return SUCCESS; }
CUresult cuStreamWaitEvent(void *stream, void *event, unsigned flags) { (void)stream; (void)event; (void)flags; return SUCCESS; }

CUresult cuMemAllocAsync(CUdeviceptr *out, size_t bytes, void *stream) {
    (void)stream;
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > 1 << 20) return OUT_OF_MEMORY;
    void *memory = malloc(bytes);
    memset(memory, 0xee, bytes);
    live_memory++;
    n_allocations++;
    *out = (CUdeviceptr)(uintptr_t)memory;
    return SUCCESS;
}
CUresult cuMemFreeAsync(CUdeviceptr memory, void *stream) {
    (void)stream;
    live_memory--;
    free((void *)(uintptr_t)memory);
    return SUCCESS;
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, void *stream) {
    (void)stream;
    memcpy((void *)(uintptr_t)to, from, bytes);
    return SUCCESS;
}
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, void *stream) {
    (void)stream;
    memcpy(to, (const void *)(uintptr_t)from, bytes);
    return SUCCESS;
}

CUresult cuModuleLoadData(void **module, const void *text) {
    if (strstr(text, ".visible .entry ") == NULL) return INVALID_PTX;
    live_modules++;
    *module = strdup(text);
    return SUCCESS;
}
CUresult cuModuleUnload(void *module) { live_modules--; free(module); return SUCCESS; }

enum { NORMALISE = 1, ADVANCE, OTHER };
CUresult cuModuleGetFunction(void **function, void *module, const char *name) {
    char entry[256];
    snprintf(entry, sizeof entry, ".visible .entry %s(", name);
    if (strstr(module, entry) == NULL) return NOT_FOUND;
    *function = (void *)(uintptr_t)(strcmp(name, "normalise") == 0 ? NORMALISE : strcmp(name, "advance") == 0 ? ADVANCE : OTHER);
    return SUCCESS;
}

typedef struct { int number; } Event;
CUresult cuEventCreate(void **event, unsigned flags) { (void)flags; live_events++; *event = calloc(1, sizeof(Event)); return SUCCESS; }
CUresult cuEventDestroy_v2(void *event) { live_events--; free(event); return SUCCESS; }
CUresult cuEventRecord(void *event, void *stream) { (void)stream; ((Event *)event)->number = n_launches; return SUCCESS; }
CUresult cuEventSynchronize(void *event) { (void)event; return SUCCESS; }
CUresult cuEventQuery(void *event) { (void)event; return SUCCESS; }
/* A launch takes a millisecond here. */
CUresult cuEventElapsedTime(float *ms, void *start, void *end) {
    *ms = (float)(((Event *)end)->number - ((Event *)start)->number);
    return SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char **name) {
    *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : error == INVALID_PTX ? "CUDA_ERROR_INVALID_PTX" : "CUDA_ERROR";
    return SUCCESS;
}
CUresult cuGetErrorString(CUresult error, const char **text) {
    *text = error == OUT_OF_MEMORY ? "out of memory" : error == INVALID_PTX ? "a PTX JIT compilation failed" : "an error";
    return SUCCESS;
}

static void normalise(const uint64_t *const *words, int64_t row, float *sum) {
    const float *src = (const float *)(uintptr_t)*words[0] + row * 64;
    float *dst = (float *)(uintptr_t)*words[1] + row * 64;
    *sum = 0;
    for (int c = 0; c < 64; c++) *sum += src[c];
    for (int c = 0; c < 64; c++) dst[c] = src[c] / *sum;
}

static void advance(const uint64_t *const *words, int64_t row) {
    const float *step = (const float *)(uintptr_t)*words[0], *state = (const float *)(uintptr_t)*words[1] + row * 64;
    float *next = (float *)(uintptr_t)*words[2] + row * 64;
    for (int c = 0; c < 64; c++) next[c] = state[c] * 2 + *step;
}

CUresult cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared, void *stream, void **params, void **extra) {
    (void)stream;
    int kind = (int)(uintptr_t)function;
    if (gx == 0 || gx > MAX_BLOCKS || gy != 1 || gz != 1 || by != 1 || bz != 1 || shared != 0 || extra != NULL)
        return LAUNCH_OUT_OF_RESOURCES;
    if (kind == OTHER) {
        n_launches++;
        return bx > 1024 ? LAUNCH_OUT_OF_RESOURCES : SUCCESS;
    }
    if (bx != 16) return LAUNCH_OUT_OF_RESOURCES;
    const uint64_t *const *words = (const uint64_t *const *)params;
    n_launches++;
    for (unsigned block = 0; block < gx; block++)
        for (unsigned thread = 0; thread < bx; thread++)
            for (int64_t row = block * 16 + thread; row < (int64_t)*words[kind == NORMALISE ? 2 : 3]; row += 16 * gx) {
                float *sums = kind == NORMALISE ? (float *)(uintptr_t)*words[3] : NULL;
                if (sums != NULL) normalise(words, row, sums + block * 16 + thread);
                else advance(words, row);
            }
    return SUCCESS;
}
