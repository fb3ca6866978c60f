/* The unknowns of one rank as a box of a structured grid. SPDX-License-Identifier: Apache-2.0 */
#ifndef SCIOPS_PETSC_BLOCK_H
#define SCIOPS_PETSC_BLOCK_H

#include <petscksp.h>
#include <stdint.h>

typedef struct {
  Mat         matrix; /* of the box, sequential */
  PetscBool   owned;  /* matrix is to be destroyed */
  PetscInt    axes, rows;
  int64_t     space[3]; /* C order: x last */
  PetscMPIInt ranks;
  VecScatter  scatter; /* between whole vectors and the widened box; NULL without overlap */
  Vec         right, left;
} Block;

/* From the corners of a DMDA, else from whole planes of a grid of `shape` (x first). What does not fit is one sentence in
 * `why`, which is left alone if it says something already. Collective. */
PetscErrorCode BlockCreate(Mat whole, DM dm, PetscInt axes, const PetscInt shape[], PetscInt overlap, Block *block, char *why, size_t size);

/* (1 + axes, *space): the diagonal, then the coupling -A[i, i + e] >= 0 per axis; or one sentence in `why`. */
PetscErrorCode BlockFields(const Block *block, double *fields, char *why, size_t size);

PetscErrorCode BlockDestroy(Block *block);

#endif
