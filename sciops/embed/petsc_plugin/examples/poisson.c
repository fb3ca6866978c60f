/* -div(a grad u) = f on a DMDA in two or three dimensions: an ordinary PETSc program. SPDX-License-Identifier: Apache-2.0
 *
 *   mpirun -n 2 ./poisson -dim 2 -da_grid_x 128 -da_grid_y 128 -faces neumann -contrast 1e3 -ksp_type fcg
 *          -dll_prepend libsciopspetsc.so -pc_type sciops -pc_sciops_model NAME.sciops
 *
 * Cells with harmonic face coefficients; a is 1 and `contrast` in blocks of 16 cells; `-scale s` multiplies the
 * matrix. Solves for a known answer and prints iterations, PETSc's reason and the relative error. */
#include <petscdmda.h>
#include <petscksp.h>
#include <string.h>

static PetscReal coefficient(PetscInt i, PetscInt j, PetscInt k, PetscReal contrast)
{
  return (i / 16 + j / 16 + k / 16) % 2 ? contrast : 1.0;
}

static PetscErrorCode assemble(DM da, PetscInt dim, PetscBool neumann, PetscReal contrast, Mat A)
{
  PetscInt      low[3], size[3], points[3], at[3], axis, side;
  MatStencil    row, column;
  PetscScalar   value, total;
  PetscReal     here, there;

  PetscFunctionBegin;
  PetscCall(DMDAGetInfo(da, NULL, &points[0], &points[1], &points[2], NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL));
  PetscCall(DMDAGetCorners(da, &low[0], &low[1], &low[2], &size[0], &size[1], &size[2]));
  for (at[2] = low[2]; at[2] < low[2] + size[2]; ++at[2]) {
    for (at[1] = low[1]; at[1] < low[1] + size[1]; ++at[1]) {
      for (at[0] = low[0]; at[0] < low[0] + size[0]; ++at[0]) {
        here  = coefficient(at[0], at[1], at[2], contrast);
        total = 0.0;
        memset(&row, 0, sizeof(row));
        row.i = at[0], row.j = at[1], row.k = at[2];
        for (axis = 0; axis < dim; ++axis) {
          for (side = -1; side <= 1; side += 2) {
            PetscInt next[3] = {at[0], at[1], at[2]};
            next[axis] += side;
            if (next[axis] < 0 || next[axis] >= points[axis]) {
              if (!neumann) total += 2.0 * here;
              continue;
            }
            there  = coefficient(next[0], next[1], next[2], contrast);
            value  = -2.0 * here * there / (here + there);
            column = row;
            column.i = next[0], column.j = next[1], column.k = next[2];
            total -= value;
            PetscCall(MatSetValuesStencil(A, 1, &row, 1, &column, &value, INSERT_VALUES));
          }
        }
        PetscCall(MatSetValuesStencil(A, 1, &row, 1, &row, &total, INSERT_VALUES));
      }
    }
  }
  PetscCall(MatAssemblyBegin(A, MAT_FINAL_ASSEMBLY));
  PetscCall(MatAssemblyEnd(A, MAT_FINAL_ASSEMBLY));
  PetscFunctionReturn(0);
}

int main(int argc, char **argv)
{
  DM                 da;
  Mat                A;
  Vec                x, b, exact;
  KSP                ksp;
  MatNullSpace       constants;
  KSPConvergedReason reason;
  PetscReal          contrast = 1.0, scale = 1.0, error, size;
  PetscInt           dim = 2, iterations;
  PetscBool          neumann = PETSC_FALSE;
  char               faces[32] = "dirichlet";

  PetscCall(PetscInitialize(&argc, &argv, NULL, NULL));
  PetscCall(PetscOptionsGetInt(NULL, NULL, "-dim", &dim, NULL));
  PetscCall(PetscOptionsGetReal(NULL, NULL, "-contrast", &contrast, NULL));
  PetscCall(PetscOptionsGetReal(NULL, NULL, "-scale", &scale, NULL));
  PetscCall(PetscOptionsGetString(NULL, NULL, "-faces", faces, sizeof(faces), NULL));
  neumann = strcmp(faces, "neumann") ? PETSC_FALSE : PETSC_TRUE;
  PetscCall(DMDACreate(PETSC_COMM_WORLD, &da));
  PetscCall(DMSetDimension(da, dim));
  PetscCall(DMDASetSizes(da, 128, 128, dim == 3 ? 128 : 1));
  PetscCall(DMDASetDof(da, 1));
  PetscCall(DMDASetStencilWidth(da, 1));
  PetscCall(DMDASetStencilType(da, DMDA_STENCIL_STAR));
  PetscCall(DMSetFromOptions(da));
  PetscCall(DMSetUp(da));
  PetscCall(DMCreateMatrix(da, &A));
  PetscCall(assemble(da, dim, neumann, contrast, A));
  PetscCall(MatScale(A, scale));
  PetscCall(MatCreateVecs(A, &x, &b));
  PetscCall(VecDuplicate(x, &exact));
  PetscCall(VecSetRandom(exact, NULL));
  if (neumann) {
    PetscCall(MatNullSpaceCreate(PETSC_COMM_WORLD, PETSC_TRUE, 0, NULL, &constants));
    PetscCall(MatSetNullSpace(A, constants));
    PetscCall(MatNullSpaceRemove(constants, exact));
    PetscCall(MatNullSpaceDestroy(&constants));
  }
  PetscCall(MatMult(A, exact, b));
  PetscCall(KSPCreate(PETSC_COMM_WORLD, &ksp));
  PetscCall(KSPSetOperators(ksp, A, A));
  PetscCall(KSPSetDM(ksp, da));
  PetscCall(KSPSetDMActive(ksp, PETSC_FALSE));
  PetscCall(KSPSetTolerances(ksp, 1e-8, PETSC_DEFAULT, PETSC_DEFAULT, 2000));
  PetscCall(KSPSetNormType(ksp, KSP_NORM_UNPRECONDITIONED));
  PetscCall(KSPSetFromOptions(ksp));
  PetscCall(KSPSolve(ksp, b, x));
  PetscCall(KSPGetIterationNumber(ksp, &iterations));
  PetscCall(KSPGetConvergedReason(ksp, &reason));
  PetscCall(VecNorm(exact, NORM_2, &size));
  PetscCall(VecAXPY(x, -1.0, exact));
  PetscCall(VecNorm(x, NORM_2, &error));
  PetscCall(PetscPrintf(PETSC_COMM_WORLD, "{\"iterations\": [%" PetscInt_FMT "], \"reason\": [%d], \"error\": [%.3e]}\n", iterations, (int)reason, (double)(error / size)));
  PetscCall(KSPDestroy(&ksp));
  PetscCall(VecDestroy(&x));
  PetscCall(VecDestroy(&b));
  PetscCall(VecDestroy(&exact));
  PetscCall(MatDestroy(&A));
  PetscCall(DMDestroy(&da));
  PetscCall(PetscFinalize());
  return 0;
}
