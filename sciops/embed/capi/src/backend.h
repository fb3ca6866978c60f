/* Between libsciops and the library that runs networks: plain C, so that only backend_torch.cpp sees torch.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef SCIOPS_BACKEND_H
#define SCIOPS_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SCIOPS_BACKEND_ABI 1
#define SCIOPS_MAX_AXES 8

/* A contiguous tensor in C order: memory of the caller (handle NULL) or a tensor of the backend, freed by `release`. */
typedef struct {
    void *handle;
    const void *data;
    int precision; /* 32, 64; 0: some other type that only the backend reads */
    int ndim;
    int64_t shape[SCIOPS_MAX_AXES];
} sciops_tensor;

typedef struct {
    int abi;
    const char *runtime; /* version of torch, "2.13.0" */
    /* Each returns NULL or non-zero on failure and a sentence in `error`; nothing is thrown. */
    void *(*open)(const char *package, const char *entry, char *error, size_t size);
    void (*close)(void *network);
    int (*run)(void *network, int threads, const sciops_tensor *inputs, int n_inputs, sciops_tensor *outputs,
               int n_outputs, char *error, size_t size);
    void (*release)(void *handle);
} sciops_backend;

typedef const sciops_backend *(*sciops_backend_entry)(void);
#define SCIOPS_BACKEND_SYMBOL "sciops_backend_of_this_library"

#ifdef __cplusplus
}
#endif
#endif
