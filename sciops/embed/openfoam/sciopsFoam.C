// SPDX-License-Identifier: GPL-3.0-or-later
// libsciopsFoam.so as one translation unit: OpenFOAM's headers are read once, a fifth of the time.
#include "directionWindow.C"
#include "gridMap.C"
#include "gridPlaces.C"
#include "sciopsFCG.C"
#include "sciopsPreconditioner.C"
#include "trainedBlock.C"
