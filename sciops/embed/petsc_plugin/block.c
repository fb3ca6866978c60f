/* SPDX-License-Identifier: Apache-2.0 */
#include "block.h"

#include <math.h>
#include <petscdmda.h>
#include <string.h>

/* Entries this small beside the diagonals of their row and column are rounding; so are differences from symmetry. */
static const double rounding = 1e-9;

/* Sizes of the grid, lowest corner and end of this rank's box, x first. */
static PetscErrorCode corners(DM da, Mat whole, PetscInt *axes, PetscInt sizes[3], PetscInt low[3], PetscInt high[3], char *why, size_t size)
{
  PetscInt dof, rows, k;

  PetscFunctionBegin;
  PetscCall(MatGetSize(whole, &rows, NULL));
  PetscCall(DMDAGetInfo(da, axes, &sizes[0], &sizes[1], &sizes[2], NULL, NULL, NULL, &dof, NULL, NULL, NULL, NULL, NULL));
  PetscCall(DMDAGetCorners(da, &low[0], &low[1], &low[2], &high[0], &high[1], &high[2]));
  for (k = 0; k < 3; ++k) high[k] += low[k];
  if (dof != 1 || rows != sizes[0] * sizes[1] * sizes[2]) {
    PetscCall(PetscSNPrintf(why, size,
                            "The DMDA has %" PetscInt_FMT " unknowns per point and %" PetscInt_FMT " points, the matrix %" PetscInt_FMT " rows; one unknown per point is needed: "
                            "take this preconditioner for a field of a split.",
                            dof, sizes[0] * sizes[1] * sizes[2], rows));
  }
  PetscFunctionReturn(0);
}

static PetscErrorCode planes(Mat whole, PetscInt axes, const PetscInt shape[], PetscInt sizes[3], PetscInt low[3], PetscInt high[3], char *why, size_t size)
{
  PetscInt rows, start, end, plane = 1, k;

  PetscFunctionBegin;
  PetscCall(MatGetSize(whole, &rows, NULL));
  PetscCall(MatGetOwnershipRange(whole, &start, &end));
  for (k = 0; k < axes; ++k) {
    sizes[k] = high[k] = shape[k];
    if (k + 1 < axes) plane *= shape[k];
  }
  if (axes < 2 || plane * shape[axes - 1] != rows) {
    PetscCall(PetscSNPrintf(why, size, "The matrix has %" PetscInt_FMT " rows, no DMDA, and %s; give nx,ny or nx,ny,nz with that product.", rows,
                            axes ? "-pc_sciops_shape has another product" : "no -pc_sciops_shape is given"));
  } else if (start % plane || end % plane) {
    PetscCall(PetscSNPrintf(why, size,
                            "Rows %" PetscInt_FMT " to %" PetscInt_FMT " of this rank are not whole planes of %" PetscInt_FMT " unknowns; use a DMDA, or distribute the matrix "
                            "by planes of its slowest axis.",
                            start, end, plane));
  } else {
    low[axes - 1]  = start / plane;
    high[axes - 1] = end / plane;
  }
  PetscFunctionReturn(0);
}

/* The matrix of the box widened by `overlap`, and the way into and out of it. */
static PetscErrorCode widen(Mat whole, DM da, const PetscInt sizes[3], PetscInt low[3], PetscInt high[3], PetscInt overlap, Block *block)
{
  IS        points;
  AO        order;
  Mat      *matrices;
  Vec       x;
  PetscInt *index, count = 0, i, j, k;

  PetscFunctionBegin;
  for (k = 0; k < 3; ++k) {
    low[k]  = PetscMax(0, low[k] - overlap);
    high[k] = PetscMin(sizes[k], high[k] + overlap);
  }
  PetscCall(PetscMalloc1((high[0] - low[0]) * (high[1] - low[1]) * (high[2] - low[2]), &index));
  for (k = low[2]; k < high[2]; ++k)
    for (j = low[1]; j < high[1]; ++j)
      for (i = low[0]; i < high[0]; ++i) index[count++] = i + sizes[0] * (j + sizes[1] * k);
  if (da) {
    PetscCall(DMDAGetAO(da, &order));
    PetscCall(AOApplicationToPetsc(order, count, index));
  }
  PetscCall(ISCreateGeneral(PETSC_COMM_SELF, count, index, PETSC_OWN_POINTER, &points));
  PetscCall(MatCreateSubMatrices(whole, 1, &points, &points, MAT_INITIAL_MATRIX, &matrices));
  block->matrix = matrices[0];
  block->owned  = PETSC_TRUE;
  PetscCall(PetscObjectReference((PetscObject)block->matrix));
  PetscCall(MatDestroySubMatrices(1, &matrices));
  PetscCall(MatCreateVecs(block->matrix, &block->right, &block->left));
  PetscCall(MatCreateVecs(whole, &x, NULL));
  PetscCall(VecScatterCreate(x, points, block->right, NULL, &block->scatter));
  PetscCall(VecDestroy(&x));
  PetscCall(ISDestroy(&points));
  PetscFunctionReturn(0);
}

PetscErrorCode BlockCreate(Mat whole, DM dm, PetscInt axes, const PetscInt shape[], PetscInt overlap, Block *block, char *why, size_t size)
{
  PetscInt    sizes[3] = {1, 1, 1}, low[3] = {0, 0, 0}, high[3] = {1, 1, 1}, k;
  PetscBool   is_da = PETSC_FALSE, plain;
  char        grid[512] = "";
  PetscMPIInt mine, any;
  MPI_Comm    comm;

  PetscFunctionBegin;
  PetscCall(PetscMemzero(block, sizeof(*block)));
  PetscCall(PetscObjectGetComm((PetscObject)whole, &comm));
  PetscCallMPI(MPI_Comm_size(comm, &block->ranks));
  if (dm) PetscCall(PetscObjectTypeCompare((PetscObject)dm, DMDA, &is_da));
  if (is_da) PetscCall(corners(dm, whole, &axes, sizes, low, high, grid, sizeof(grid)));
  else PetscCall(planes(whole, axes, shape, sizes, low, high, grid, sizeof(grid)));
  mine = grid[0] != 0;
  PetscCallMPI(MPI_Allreduce(&mine, &any, 1, MPI_INT, MPI_MAX, comm));
  if (any) {
    if (!why[0]) PetscCall(PetscStrncpy(why, grid[0] ? grid : "Another rank has no box of the grid.", size));
    PetscFunctionReturn(0);
  }
  if (overlap > 0 && block->ranks > 1) PetscCall(widen(whole, is_da ? dm : NULL, sizes, low, high, overlap, block));
  else if (block->ranks > 1) PetscCall(MatGetDiagonalBlock(whole, &block->matrix));
  else block->matrix = whole;
  PetscCall(PetscObjectTypeCompareAny((PetscObject)block->matrix, &plain, MATSEQAIJ, MATSEQBAIJ, ""));
  if (!plain) {
    Mat copy;
    PetscCall(MatConvert(block->matrix, MATSEQAIJ, MAT_INITIAL_MATRIX, &copy));
    if (block->owned) PetscCall(MatDestroy(&block->matrix));
    block->matrix = copy;
    block->owned  = PETSC_TRUE;
  }
  block->axes = axes;
  PetscCall(MatGetSize(block->matrix, &block->rows, NULL));
  for (k = 0; k < axes; ++k) block->space[axes - 1 - k] = high[k] - low[k];
  PetscFunctionReturn(0);
}

/* The axis along which j is the next point after i < j; -1: none. */
static PetscInt axis_of(const Block *block, PetscInt i, PetscInt j)
{
  PetscInt axis, stride = 1;

  for (axis = block->axes - 1; axis >= 0; --axis) {
    if (j - i == stride) {
      PetscInt place = (i / stride) % (PetscInt)block->space[axis];
      if (place + 1 < (PetscInt)block->space[axis]) return axis;
    }
    stride *= (PetscInt)block->space[axis];
  }
  return -1;
}

/* The first thing that is wrong with the fields; `down` are the transposed couplings. */
static PetscErrorCode judge(const Block *block, const double *fields, const double *down, char *why, size_t size)
{
  const PetscInt n = block->rows;
  PetscInt       i, axis, stride = 1;
  double         largest = 0.0;

  PetscFunctionBegin;
  for (i = 0; i < n && !why[0]; ++i) {
    if (!isfinite(fields[i])) PetscCall(PetscSNPrintf(why, size, "The matrix has entries that are NaN or infinite; assemble it anew from finite coefficients."));
    else if (fields[i] < 0) {
      PetscCall(PetscSNPrintf(why, size, "The matrix has the wrong sign: diagonal entry %" PetscInt_FMT " of this rank is %g, a positive one is needed; solve (-A) x = -b instead.", i, fields[i]));
    }
    largest = PetscMax(largest, fields[i]);
  }
  if (!why[0] && largest == 0.0) PetscCall(PetscSNPrintf(why, size, "The matrix has no positive diagonal entry; assemble it before the solver is set up."));
  for (axis = block->axes - 1; axis >= 0; --axis) {
    for (i = 0; i + stride < n && !why[0]; ++i) {
      double up = fields[(1 + axis) * n + i], other = down[axis * n + i];
      double scale = sqrt(fabs(fields[i] * fields[i + stride]));
      if (!isfinite(up) || !isfinite(other)) PetscCall(PetscSNPrintf(why, size, "The matrix has entries that are NaN or infinite; assemble it anew from finite coefficients."));
      else if (fabs(up - other) > rounding * scale) {
        PetscCall(PetscSNPrintf(why, size, "The matrix is not symmetric: entries %" PetscInt_FMT ", %" PetscInt_FMT " of this rank and their transpose differ by %g; eliminate boundary values from rows and columns alike.", i, i + stride, fabs(up - other)));
      } else if (up < -rounding * scale) {
        PetscCall(PetscSNPrintf(why, size, "The off-diagonal entry %" PetscInt_FMT ", %" PetscInt_FMT " of this rank is %g; off-diagonal entries must not be positive (an M-matrix, as finite volumes give).", i, i + stride, -up));
      }
    }
    stride *= (PetscInt)block->space[axis];
  }
  PetscFunctionReturn(0);
}

/* Rows that hold their diagonal alone: boundary values kept in the system. */
static PetscErrorCode find_alone(const Block *block, PetscBool *alone)
{
  const PetscInt    *columns;
  const PetscScalar *values;
  PetscInt           i, k, count;

  PetscFunctionBegin;
  for (i = 0; i < block->rows; ++i) {
    alone[i] = PETSC_TRUE;
    PetscCall(MatGetRow(block->matrix, i, &count, &columns, &values));
    for (k = 0; k < count; ++k) {
      if (columns[k] != i && values[k] != 0.0) alone[i] = PETSC_FALSE;
    }
    PetscCall(MatRestoreRow(block->matrix, i, &count, &columns, &values));
  }
  PetscFunctionReturn(0);
}

PetscErrorCode BlockFields(const Block *block, double *fields, char *why, size_t size)
{
  const PetscInt     n = block->rows;
  const PetscInt    *columns;
  const PetscScalar *values;
  PetscInt           i, k, axis, count;
  double            *down;
  PetscBool         *alone;

  PetscFunctionBegin;
  PetscCall(PetscArrayzero(fields, (1 + block->axes) * n));
  PetscCall(PetscCalloc1(block->axes * PetscMax(n, 1), &down));
  PetscCall(PetscMalloc1(PetscMax(n, 1), &alone));
  PetscCall(find_alone(block, alone));
  for (i = 0; i < n && !why[0]; ++i) {
    PetscCall(MatGetRow(block->matrix, i, &count, &columns, &values));
    for (k = 0; k < count && !why[0]; ++k) {
      PetscInt j = columns[k];
      double   v = PetscRealPart(values[k]);
      if (j == i) fields[i] = v;
      else if (v != 0.0 && !alone[j]) { /* columns of boundary values are left out: block-triangular */
        axis = axis_of(block, PetscMin(i, j), PetscMax(i, j));
        if (axis < 0) {
          PetscCall(PetscSNPrintf(why, size,
                                  "Entry %" PetscInt_FMT ", %" PetscInt_FMT " of this rank joins points that are no neighbours in a %" PetscInt_FMT "-point stencil; give -pc_sciops_shape with x, the fastest axis, first; "
                                  "periodic grids have no map.",
                                  i, j, 2 * block->axes + 1));
        } else if (j > i) fields[(1 + axis) * n + i] = -v;
        else down[axis * n + j] = -v;
      }
    }
    PetscCall(MatRestoreRow(block->matrix, i, &count, &columns, &values));
  }
  if (!why[0]) PetscCall(judge(block, fields, down, why, size));
  for (i = n; i < (1 + block->axes) * n; ++i) fields[i] = PetscMax(fields[i], 0.0);
  PetscCall(PetscFree(down));
  PetscCall(PetscFree(alone));
  PetscFunctionReturn(0);
}

PetscErrorCode BlockDestroy(Block *block)
{
  PetscFunctionBegin;
  if (block->owned) PetscCall(MatDestroy(&block->matrix));
  PetscCall(VecScatterDestroy(&block->scatter));
  PetscCall(VecDestroy(&block->right));
  PetscCall(VecDestroy(&block->left));
  PetscCall(PetscMemzero(block, sizeof(*block)));
  PetscFunctionReturn(0);
}
