/* PETSc preconditioner type "sciops": exported solvers in any PETSc program. SPDX-License-Identifier: Apache-2.0
 *
 *   program -dll_prepend libsciopspetsc.so -pc_type sciops -pc_sciops_model NAME.sciops
 *
 * z = sum over ranks of R^T B R r, B the learned cycle on the rank's block (additive Schwarz; overlap 0: block Jacobi).
 * Options: -pc_sciops_model, _precision 32|64, _threads n, _shape nx,ny[,nz] (x fastest; not needed with a DMDA),
 * _overlap k, _on_failure stop|native. Public interface of PETSc alone; the type is a shell. */
#include <petscdmda.h>
#include <petscksp.h>
#include <sciops.h>
#include <stdio.h>
#include <string.h>

#include "block.h"

typedef struct {
  char                   path[PETSC_MAX_PATH_LEN], loaded[PETSC_MAX_PATH_LEN];
  PetscInt               precision, threads, overlap, shape[3], axes;
  PetscBool              stop, warned;
  sciops_model          *model;
  sciops_preconditioner *cycle;
  Block                  block;
  PC                     native; /* of the whole matrix where set-up failed, else of the block */
  PetscBool              whole;
  PetscInt               calls, fallbacks;
} Sciops;

static const char *const flexible[] = {"fcg",   "pipefcg", "fgmres",     "pipefgmres", "gcr",   "pipegcr",
                                       "fbcgs", "fbcgsr",  "richardson", "preonly",    "python"};

static PetscErrorCode warn(Sciops *s, const char *why)
{
  PetscFunctionBegin;
  if (!s->warned) fprintf(stderr, "Warning: %s Going on with incomplete factors of each rank's block.\n", why);
  s->warned = PETSC_TRUE;
  PetscFunctionReturn(0);
}

static PetscErrorCode factor(Sciops *s, Mat matrix)
{
  PetscFunctionBegin;
  PetscCall(PCDestroy(&s->native));
  PetscCall(PCCreate(PetscObjectComm((PetscObject)matrix), &s->native));
  PetscCall(PCSetOperators(s->native, matrix, matrix));
  PetscCall(PCSetType(s->native, PCBJACOBI));
  PetscCall(PCSetUp(s->native));
  PetscFunctionReturn(0);
}

static PetscErrorCode go_native(PC pc, Sciops *s, const char *why)
{
  Mat matrix;

  PetscFunctionBegin;
  PetscCall(warn(s, why));
  PetscCall(PCGetOperators(pc, NULL, &matrix));
  PetscCall(factor(s, matrix));
  s->whole = PETSC_TRUE;
  PetscFunctionReturn(0);
}

static PetscErrorCode read_options(PC pc, Sciops *s)
{
  const char *prefix, *const choices[] = {"stop", "native"};
  PetscInt    choice = s->stop ? 0 : 1, count = 3;
  PetscBool   given;

  PetscFunctionBegin;
  PetscCall(PCGetOptionsPrefix(pc, &prefix));
  PetscOptionsBegin(PetscObjectComm((PetscObject)pc), prefix, "Exported solver as preconditioner", "PC");
  PetscCall(PetscOptionsString("-pc_sciops_model", "folder NAME.sciops", NULL, s->path, s->path, sizeof(s->path), NULL));
  PetscCall(PetscOptionsInt("-pc_sciops_precision", "32 or 64; 0: the lowest", NULL, s->precision, &s->precision, NULL));
  PetscCall(PetscOptionsInt("-pc_sciops_threads", "threads of one call", NULL, s->threads, &s->threads, NULL));
  PetscCall(PetscOptionsInt("-pc_sciops_overlap", "points between blocks", NULL, s->overlap, &s->overlap, NULL));
  PetscCall(PetscOptionsEList("-pc_sciops_on_failure", "stop or native", NULL, choices, 2, choices[choice], &choice, NULL));
  PetscCall(PetscOptionsIntArray("-pc_sciops_shape", "nx,ny[,nz]", NULL, s->shape, &count, &given));
  PetscOptionsEnd();
  if (given) s->axes = count;
  s->stop = choice == 0 ? PETSC_TRUE : PETSC_FALSE;
  PetscFunctionReturn(0);
}

/* The model, the block and the cycle of this rank; `why` says what is wrong, "" if nothing is. */
static PetscErrorCode prepare(PC pc, Sciops *s, char *why, size_t size)
{
  sciops_options options;
  Mat            matrix;
  DM             dm;
  char           wanted[PETSC_MAX_PATH_LEN];
  double        *fields;

  PetscFunctionBegin;
  why[0] = 0;
  options.precision = (int)s->precision;
  options.threads   = (int)s->threads;
  PetscCall(PetscSNPrintf(wanted, sizeof(wanted), "%d %d %s", options.precision, options.threads, s->path));
  sciops_preconditioner_free(s->cycle);
  s->cycle = NULL;
  if (strcmp(wanted, s->loaded)) {
    s->loaded[0] = 0;
    sciops_free(s->model);
    s->model = NULL;
    if (!s->path[0]) PetscCall(PetscSNPrintf(why, size, "No model is given; name an artefact by -pc_sciops_model NAME.sciops."));
    else if (sciops_load(s->path, &options, &s->model)) PetscCall(PetscSNPrintf(why, size, "%s", sciops_last_error()));
    else PetscCall(PetscStrncpy(s->loaded, wanted, sizeof(s->loaded)));
  }
  PetscCall(PCGetOperators(pc, NULL, &matrix));
  PetscCall(PCGetDM(pc, &dm));
  if (!dm) PetscCall(MatGetDM(matrix, &dm));
  /* Collective with overlap, so it is made whatever happened before; `why` of the grid is the same on all ranks. */
  PetscCall(BlockCreate(matrix, dm, s->axes, s->shape, s->overlap, &s->block, why, size));
  if (why[0]) PetscFunctionReturn(0);
  PetscCall(PetscMalloc1((1 + s->block.axes) * PetscMax(s->block.rows, 1), &fields));
  PetscCall(BlockFields(&s->block, fields, why, size));
  if (!why[0] && sciops_setup(s->model, (int)s->block.axes, s->block.space, fields, &s->cycle)) {
    PetscCall(PetscSNPrintf(why, size, "%s", sciops_last_error()));
  }
  PetscCall(PetscFree(fields));
  PetscFunctionReturn(0);
}

static PetscErrorCode set_up(PC pc)
{
  Sciops     *s;
  char        why[1024];
  PetscMPIInt mine, any;
  MPI_Comm    comm;

  PetscFunctionBegin;
  PetscCall(PCShellGetContext(pc, &s));
  PetscCall(read_options(pc, s));
  PetscCall(PCDestroy(&s->native));
  PetscCall(BlockDestroy(&s->block));
  s->whole = PETSC_FALSE;
  PetscCall(prepare(pc, s, why, sizeof(why)));
  PetscCall(PetscObjectGetComm((PetscObject)pc, &comm));
  mine = why[0] != 0;
  PetscCallMPI(MPI_Allreduce(&mine, &any, 1, MPI_INT, MPI_MAX, comm));
  if (!any) PetscFunctionReturn(0);
  if (!mine) PetscCall(PetscSNPrintf(why, sizeof(why), "Another rank could not set its block up."));
  PetscCheck(!s->stop, comm, PETSC_ERR_ARG_WRONG, "%s", why);
  PetscCall(go_native(pc, s, why));
  PetscFunctionReturn(0);
}

/* Where PETSc says which method the preconditioner serves. */
static PetscErrorCode pre_solve(PC pc, KSP ksp, Vec b, Vec x)
{
  Sciops    *s;
  KSPType    type;
  PetscBool  bears = PETSC_FALSE;
  char       why[512];
  PetscSizeT k;

  PetscFunctionBegin;
  PetscCall(PCShellGetContext(pc, &s));
  if (s->whole || sciops_is_linear(s->model)) PetscFunctionReturn(0);
  PetscCall(KSPGetType(ksp, &type));
  for (k = 0; k < PETSC_STATIC_ARRAY_LENGTH(flexible); ++k) bears = strcmp(type, flexible[k]) ? bears : PETSC_TRUE;
  if (bears) PetscFunctionReturn(0);
  PetscCall(PetscSNPrintf(why, sizeof(why), "'%s' is a nonlinear network, in which -ksp_type %s stalls; use -ksp_type fcg, fgmres or gcr.", s->path, type));
  PetscCheck(!s->stop, PetscObjectComm((PetscObject)pc), PETSC_ERR_ARG_WRONG, "%s", why);
  PetscCall(go_native(pc, s, why));
  PetscFunctionReturn(0);
}

/* z = B r on the block; both of its size. */
static PetscErrorCode local_apply(Sciops *s, const PetscScalar *r, PetscScalar *z)
{
  Vec      right, left;
  PetscInt i;

  PetscFunctionBegin;
  if (!sciops_apply(s->cycle, r, z)) PetscFunctionReturn(0);
  if (s->stop) {
    PetscCheck(s->block.ranks > 1, PETSC_COMM_SELF, PETSC_ERR_FP, "%s", sciops_last_error());
    /* Norms carry this to every rank, so that the solver stops on all of them. */
    fprintf(stderr, "%s\n", sciops_last_error());
    for (i = 0; i < s->block.rows; ++i) z[i] = NAN;
    PetscFunctionReturn(0);
  }
  PetscCall(warn(s, sciops_last_error()));
  s->fallbacks++;
  if (!s->native) PetscCall(factor(s, s->block.matrix));
  PetscCall(VecCreateSeqWithArray(PETSC_COMM_SELF, 1, s->block.rows, r, &right));
  PetscCall(VecCreateSeqWithArray(PETSC_COMM_SELF, 1, s->block.rows, z, &left));
  PetscCall(PCApply(s->native, right, left));
  PetscCall(VecDestroy(&right));
  PetscCall(VecDestroy(&left));
  PetscFunctionReturn(0);
}

static PetscErrorCode apply(PC pc, Vec x, Vec y)
{
  Sciops            *s;
  Block             *block;
  Vec                from = x, to = y;
  const PetscScalar *r;
  PetscScalar       *z;
  Mat                matrix;
  MatNullSpace       constants;

  PetscFunctionBegin;
  PetscCall(PCShellGetContext(pc, &s));
  s->calls++;
  if (s->whole) {
    PetscCall(PCApply(s->native, x, y));
    PetscFunctionReturn(0);
  }
  block = &s->block;
  if (block->scatter) {
    from = block->right;
    to   = block->left;
    PetscCall(VecScatterBegin(block->scatter, x, from, INSERT_VALUES, SCATTER_FORWARD));
    PetscCall(VecScatterEnd(block->scatter, x, from, INSERT_VALUES, SCATTER_FORWARD));
  }
  PetscCall(VecGetArrayRead(from, &r));
  PetscCall(VecGetArrayWrite(to, &z));
  PetscCall(local_apply(s, r, z));
  PetscCall(VecRestoreArrayWrite(to, &z));
  PetscCall(VecRestoreArrayRead(from, &r));
  if (block->scatter) {
    PetscCall(VecSet(y, 0.0));
    PetscCall(VecScatterBegin(block->scatter, to, y, ADD_VALUES, SCATTER_REVERSE));
    PetscCall(VecScatterEnd(block->scatter, to, y, ADD_VALUES, SCATTER_REVERSE));
  }
  /* With a preconditioner from the right (fgmres) PETSc leaves this to us. */
  PetscCall(PCGetOperators(pc, &matrix, NULL));
  PetscCall(MatGetNullSpace(matrix, &constants));
  if (constants) PetscCall(MatNullSpaceRemove(constants, y));
  PetscFunctionReturn(0);
}

static PetscErrorCode view(PC pc, PetscViewer viewer)
{
  Sciops *s;

  PetscFunctionBegin;
  PetscCall(PCShellGetContext(pc, &s));
  PetscCall(PetscViewerASCIIPrintf(viewer, "  sciops: model %s, %s, overlap %" PetscInt_FMT ", %" PetscInt_FMT " calls, %" PetscInt_FMT " fallbacks\n", s->path, s->whole ? "native incomplete factors" : s->model && sciops_is_linear(s->model) ? "linear" : "nonlinear", s->overlap, s->calls, s->fallbacks));
  PetscFunctionReturn(0);
}

static PetscErrorCode destroy(PC pc)
{
  Sciops *s;

  PetscFunctionBegin;
  PetscCall(PCShellGetContext(pc, &s));
  sciops_preconditioner_free(s->cycle);
  sciops_free(s->model);
  PetscCall(PCDestroy(&s->native));
  PetscCall(BlockDestroy(&s->block));
  PetscCall(PetscFree(s));
  PetscFunctionReturn(0);
}

static PetscErrorCode create(PC pc)
{
  Sciops *s;

  PetscFunctionBegin;
  PetscCall(PetscNew(&s));
  s->stop = PETSC_TRUE;
  PetscCall(PCSetType(pc, PCSHELL));
  PetscCall(PCShellSetContext(pc, s));
  PetscCall(PCShellSetName(pc, "sciops"));
  PetscCall(PCShellSetSetUp(pc, set_up));
  PetscCall(PCShellSetPreSolve(pc, pre_solve));
  PetscCall(PCShellSetApply(pc, apply));
  PetscCall(PCShellSetView(pc, view));
  PetscCall(PCShellSetDestroy(pc, destroy));
  PetscFunctionReturn(0);
}

/* Called by PETSc when it loads the library. */
PETSC_EXTERN PetscErrorCode PetscDLLibraryRegister_sciopspetsc(void)
{
  PetscFunctionBegin;
  PetscCall(PCRegister("sciops", create));
  PetscFunctionReturn(0);
}
