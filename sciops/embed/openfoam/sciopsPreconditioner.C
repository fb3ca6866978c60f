// SPDX-License-Identifier: GPL-3.0-or-later
#include "sciopsPreconditioner.H"

namespace Foam
{

defineTypeNameAndDebug(sciopsPreconditioner, 0);

lduMatrix::preconditioner::addsymMatrixConstructorToTable<sciopsPreconditioner>
    addsciopsPreconditionerSymMatrixConstructorToTable_;


sciopsPreconditioner::sciopsPreconditioner(const lduMatrix::solver& solver, const dictionary& dict)
:
    lduMatrix::preconditioner(solver),
    block_(solver, dict, true),
    native_(block_.good() ? nullptr : new DICPreconditioner(solver, dict))
{}


void sciopsPreconditioner::precondition
(
    solveScalarField& wA,
    const solveScalarField& rA,
    const direction cmpt
) const
{
    if (!native_.valid())
    {
        string why;
        const bool good = block_.apply(wA, rA, why);
        if (block_.agree(good, why)) return;
        block_.fail(why);
        native_.reset(new DICPreconditioner(solver_, dictionary::null));
    }
    native_->precondition(wA, rA, cmpt);
}

} // namespace Foam
