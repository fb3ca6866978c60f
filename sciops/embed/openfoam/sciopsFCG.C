// SPDX-License-Identifier: GPL-3.0-or-later
#include "sciopsFCG.H"

#include "PrecisionAdaptor.H"
#include "directionWindow.H"
#include "trainedBlock.H"

namespace Foam
{

defineTypeNameAndDebug(sciopsFCG, 0);

lduMatrix::solver::addsymMatrixConstructorToTable<sciopsFCG> addsciopsFCGSymMatrixConstructorToTable_;


sciopsFCG::sciopsFCG
(
    const word& fieldName,
    const lduMatrix& matrix,
    const FieldField<Field, scalar>& interfaceBouCoeffs,
    const FieldField<Field, scalar>& interfaceIntCoeffs,
    const lduInterfaceFieldPtrsList& interfaces,
    const dictionary& solverControls
)
:
    lduMatrix::solver(fieldName, matrix, interfaceBouCoeffs, interfaceIntCoeffs, interfaces, solverControls)
{}


bool sciopsFCG::singular() const
{
    const word given(controlDict_.lookupOrDefault<word>("nullSpace", "auto"));
    if (given != "auto") return Switch(given);
    solveScalarField rows(matrix_.diag().size());
    matrix_.sumA(rows, interfaceBouCoeffs_, interfaces_);
    scalar largest = 0, diagonal = 0;
    forAll(rows, cell)
    {
        largest = max(largest, scalar(mag(rows[cell])));
        diagonal = max(diagonal, scalar(mag(matrix_.diag()[cell])));
    }
    const label comm = matrix_.mesh().comm();
    reduce(largest, maxOp<scalar>(), Pstream::msgType(), comm);
    reduce(diagonal, maxOp<scalar>(), Pstream::msgType(), comm);
    // Sums of coefficients cancel to a few roundings
    return largest <= 1e-14*diagonal;
}


void sciopsFCG::goOn
(
    solveScalarField& psi,
    const solveScalarField& source,
    const direction cmpt,
    solverPerformance& perf
) const
{
    dictionary controls(controlDict_.subOrEmptyDict("native"));
    if (!controls.found("solver"))
    {
        controls.add("solver", word("PCG"));
        controls.add("preconditioner", word("DIC"));
    }
    // The goal stays relative to the residual that this solve began with
    controls.set("tolerance", max(tolerance_, relTol_*perf.initialResidual()));
    controls.set("relTol", scalar(0));
    controls.set("maxIter", max(maxIter_ - perf.nIterations(), label(1)));
    if (!perf.nIterations()) controls.set("minIter", minIter_);
    const solverPerformance done =
        lduMatrix::solver::New
        (
            fieldName_, matrix_, interfaceBouCoeffs_, interfaceIntCoeffs_, interfaces_, controls
        )->scalarSolve(psi, source, cmpt);
    perf = solverPerformance
    (
        done.solverName(),
        fieldName_,
        perf.initialResidual(),
        done.finalResidual(),
        perf.nIterations() + done.nIterations(),
        done.converged(),
        done.singular()
    );
}


solverPerformance sciopsFCG::scalarSolve
(
    solveScalarField& psi,
    const solveScalarField& source,
    const direction cmpt
) const
{
    const label comm = matrix_.mesh().comm();
    solverPerformance perf(typeName, fieldName_);

    solveScalarField Av(psi.size()), v(psi.size());
    matrix_.Amul(Av, psi, interfaceBouCoeffs_, interfaces_, cmpt);
    solveScalarField r(source - Av);
    matrix().setResidualField(ConstPrecisionAdaptor<scalar, solveScalar>(r)(), fieldName_, true);
    const solveScalar norm = this->normFactor(psi, source, Av, v);
    perf.initialResidual() = gSumMag(r, comm)/norm;
    perf.finalResidual() = perf.initialResidual();
    if (minIter_ <= 0 && perf.checkConvergence(tolerance_, relTol_)) return perf;

    const sciopsFoam::trainedBlock block(*this, controlDict_, false);
    if (!block.good())
    {
        goOn(psi, source, cmpt, perf);
        return perf;
    }

    const bool meanFree = singular();
    const auto project = [&](solveScalarField& x) { if (meanFree) x -= gAverage(x, comm); };
    const bool safeguard = controlDict_.lookupOrDefault<Switch>("safeguard", !block.linear());
    const label asked = controlDict_.lookupOrDefaultCompat<label>
    (
        "directions", {{"window", 0}}, block.linear() ? 1 : 8
    );
    sciopsFoam::directionWindow window(max(asked, label(0)), comm);

    const auto multiply = [&](solveScalarField& Ax, const solveScalarField& x)
    {
        matrix_.Amul(Ax, x, interfaceBouCoeffs_, interfaces_, cmpt);
    };
    const auto diagonalStep = [&](sciopsFoam::directionWindow::step& s)
    {
        s.v = r/matrix_.diag();
        project(s.v);
        multiply(s.Av, s.v);
    };

    project(r);
    sciopsFoam::directionWindow::step trained(psi.size()), diagonal(psi.size());
    label simple = 0, restarts = 0;
    do
    {
        string why;
        trained.failed = !block.apply(trained.v, r, why);
        project(trained.v);
        multiply(trained.Av, trained.v);
        diagonal.used = safeguard;
        if (safeguard) diagonalStep(diagonal);
        window.orthogonalise(trained, diagonal, r);
        if (trained.failed)
        {
            block.agree(false, why);
            block.fail(why);
            goOn(psi, source, cmpt, perf);
            return perf;
        }
        if (!safeguard && !trained.descends())
        {
            diagonal.used = true;
            diagonalStep(diagonal);
            window.orthogonalise(diagonal, r);
        }
        const bool takeDiagonal = diagonal.used && (!safeguard || diagonal.gain() > trained.gain());
        sciopsFoam::directionWindow::step& best = takeDiagonal ? diagonal : trained;
        simple += takeDiagonal;
        if (perf.checkSingularity(mag(best.vAv)/norm)) break;

        const solveScalar alpha = best.vr/best.vAv;
        forAll(psi, cell)
        {
            psi[cell] += alpha*best.v[cell];
            r[cell] -= alpha*best.Av[cell];
        }
        window.keep(best);
        perf.finalResidual() = gSumMag(r, comm)/norm;
        ++perf.nIterations();

        if (perf.checkConvergence(tolerance_, relTol_))
        {
            // What counts is the residual of the solution, not that of the recurrence
            multiply(v, psi);
            r = source - v;
            project(r);
            perf.finalResidual() = gSumMag(r, comm)/norm;
            if (!perf.checkConvergence(tolerance_, relTol_) && ++restarts <= 3) window.clear();
            else if (perf.nIterations() >= minIter_) break;
        }
    } while (perf.nIterations() < maxIter_ || perf.nIterations() < minIter_);

    if (debug)
    {
        Info<< "sciopsFCG: " << simple << " of " << perf.nIterations() << " steps took r/diag" << endl;
    }
    matrix().setResidualField(ConstPrecisionAdaptor<scalar, solveScalar>(r)(), fieldName_, false);
    return perf;
}


solverPerformance sciopsFCG::solve(scalarField& psi, const scalarField& source, const direction cmpt) const
{
    PrecisionAdaptor<solveScalar, scalar> adapted(psi);
    return scalarSolve(adapted.ref(), ConstPrecisionAdaptor<solveScalar, scalar>(source)(), cmpt);
}

} // namespace Foam
