/* sciops: trained PDE solvers in C, C++ and Fortran programs. SPDX-License-Identifier: Apache-2.0
 *
 * An artefact (a folder NAME.sciops written by `sciops export`) holds one of three kinds:
 *   operator    u = G(a): input fields to output fields on one grid             sciops_solve
 *   multigrid   z = B r:  one symmetric positive cycle for a given matrix        sciops_setup, sciops_apply
 *   direction   z = f(r): a nonlinear network, for flexible methods alone        sciops_setup, sciops_apply
 *
 * Arrays are double precision, contiguous, in C order: shape[ndim - 1] is the fastest index. A Fortran array x(i, j)
 * is the same memory with shape = {nj, ni}. The arithmetic is that of the artefact (`precision`).
 *
 * Every function that can fail returns a sciops_status; sciops_last_error() says in one sentence what was given, what
 * is accepted and what to do. No function throws, prints, exits or leaves a floating-point trap or flag behind.
 * Models and preconditioners may be used by many threads at once; freeing them is the caller's last call. */
#ifndef SCIOPS_H
#define SCIOPS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SCIOPS_API_VERSION 1

typedef enum {
    SCIOPS_OK = 0,
    SCIOPS_FILE = 1,       /* the artefact or one of its files cannot be read */
    SCIOPS_CHECKSUM = 2,   /* a file is not the one that was exported */
    SCIOPS_VERSION = 3,    /* written by another schema, or compiled for another torch or processor */
    SCIOPS_KIND = 4,       /* this kind of artefact does not offer the call */
    SCIOPS_SHAPE = 5,      /* this grid or number of channels is not one of the artefact's */
    SCIOPS_VALUE = 6,      /* an argument that is not accepted: null pointer, non-finite input, wrong sign of a matrix */
    SCIOPS_NONFINITE = 7,  /* the network answered with a value that is not finite */
    SCIOPS_BACKEND = 8,    /* the library that runs networks is missing or failed */
    SCIOPS_MEMORY = 9,
    SCIOPS_NOT_CONVERGED = 10 /* sciops_fcg stopped at maxiter; x holds the best iterate */
} sciops_status;

typedef struct sciops_model sciops_model;
typedef struct sciops_preconditioner sciops_preconditioner;

typedef struct {
    int precision; /* 32 or 64; 0: the lowest that the artefact has */
    int threads;   /* of one call; 0: leave the process's setting alone */
} sciops_options;

/* path: the folder NAME.sciops. options may be NULL. *model is NULL after a failure. */
int sciops_load(const char *path, const sciops_options *options, sciops_model **model);
void sciops_free(sciops_model *model);

/* The manifest, JSON text that lives as long as the model. */
const char *sciops_describe(const sciops_model *model);

/* Numbers of channels of an operator; 1 and 1 for the other kinds. */
int sciops_channels(const sciops_model *model, int *inputs, int *outputs);

/* 1 yes, 0 no: may conjugate gradients use it (linear, symmetric and positive)? */
int sciops_is_linear(const sciops_model *model);

/* 1 yes, 0 no; the reason is then in sciops_last_error(). */
int sciops_accepts(const sciops_model *model, int ndim, const int64_t *shape);

typedef struct {
    double outside;       /* how far inputs leave the training range, as a fraction of its width; 0: inside */
    int outside_channel;  /* the input channel that leaves it furthest; -1: none */
} sciops_range;

/* output (channels_out, *shape) = G(input (channels_in, *shape)), physical units on both sides. range may be NULL. */
int sciops_solve(const sciops_model *model, int ndim, const int64_t *shape, const double *input, double *output,
                 sciops_range *range);

/* matrix (1 + ndim, *shape): the diagonal, then per axis the coupling c = -A[i, i + e] >= 0 of each cell with the next
 * one along that axis. A symmetric matrix with positive diagonal; a cell that is no unknown has zeros throughout. */
int sciops_setup(const sciops_model *model, int ndim, const int64_t *shape, const double *matrix,
                 sciops_preconditioner **preconditioner);
/* z = B r, or f(r) for a direction; both of the shape of set-up, zero where there is no unknown. */
int sciops_apply(const sciops_preconditioner *preconditioner, const double *r, double *z);
void sciops_preconditioner_free(sciops_preconditioner *preconditioner);

typedef struct {
    double tolerance;  /* stop at |b - A x|_2 <= tolerance |b|_2 */
    int maxiter;
    int window;        /* directions kept A-orthogonal; 1 is ordinary for a linear preconditioner, 0: the default (8 for
                          directions, 1 for multigrid) */
    int safeguard;     /* 1: of the network's direction and r / diag take the one that lowers the energy more */
    int null_space;    /* 1: every connected set of unknowns has a constant null vector; means are taken out */
} sciops_krylov;

typedef struct {
    int iterations;
    int fallbacks;     /* steps that took r / diag */
    double residual;   /* |b - A x|_2 / |b|_2, computed from x at the end */
} sciops_report;

/* A x = b by flexible conjugate gradients with the matrix of set-up; x holds the start and the answer. */
int sciops_fcg(const sciops_preconditioner *preconditioner, const double *b, double *x, const sciops_krylov *options,
               sciops_report *report);

/* One sentence about the last failure in this thread; "" if there was none. */
const char *sciops_last_error(void);
const char *sciops_version(void);

#ifdef __cplusplus
}
#endif
#endif
