// SPDX-License-Identifier: GPL-3.0-or-later
#include "directionWindow.H"

#include "PstreamReduceOps.H"

namespace Foam
{
namespace sciopsFoam
{

namespace
{

struct listSum
{
    scalarList operator()(const scalarList& a, const scalarList& b) const
    {
        scalarList c(a);
        forAll(c, i) c[i] += b[i];
        return c;
    }
};

} // namespace


directionWindow::directionWindow(const label capacity, const label comm)
:
    comm_(comm),
    size_(0),
    next_(0),
    v_(capacity),
    Av_(capacity),
    vAv_(capacity, Zero)
{}


void directionWindow::sum(scalarList& values) const
{
    if (Pstream::parRun()) reduce(values, listSum(), Pstream::msgType(), comm_);
}


void directionWindow::orthogonalise(step* const steps[], const label n, const solveScalarField& r) const
{
    scalarList along(n*(size_ + 1), Zero);
    for (label s = 0; s < n; ++s)
    {
        along[s*(size_ + 1)] = steps[s]->failed;
        for (label k = 0; k < size_; ++k) along[s*(size_ + 1) + k + 1] = sumProd(steps[s]->v, Av_[k]);
    }
    sum(along);
    scalarList products(2*n);
    for (label s = 0; s < n; ++s)
    {
        step& here = *steps[s];
        here.failed = along[s*(size_ + 1)] > 0;
        for (label k = 0; k < size_; ++k)
        {
            const scalar beta = along[s*(size_ + 1) + k + 1]/vAv_[k];
            const solveScalarField& vk = v_[k];
            const solveScalarField& Avk = Av_[k];
            forAll(here.v, cell)
            {
                here.v[cell] -= beta*vk[cell];
                here.Av[cell] -= beta*Avk[cell];
            }
        }
        products[2*s] = sumProd(here.v, r);
        products[2*s + 1] = sumProd(here.v, here.Av);
    }
    sum(products);
    for (label s = 0; s < n; ++s)
    {
        steps[s]->vr = products[2*s];
        steps[s]->vAv = products[2*s + 1];
    }
}


void directionWindow::orthogonalise(step& a, step& b, const solveScalarField& r) const
{
    step* const both[2] = {&a, &b};
    orthogonalise(both, b.used ? 2 : 1, r);
}


void directionWindow::orthogonalise(step& s, const solveScalarField& r) const
{
    step* const one[1] = {&s};
    orthogonalise(one, 1, r);
}


void directionWindow::keep(step& s)
{
    const label capacity = v_.size();
    if (!capacity) return;
    if (!v_.set(next_))
    {
        v_.set(next_, new solveScalarField(s.v.size()));
        Av_.set(next_, new solveScalarField(s.v.size()));
    }
    v_[next_].swap(s.v);
    Av_[next_].swap(s.Av);
    vAv_[next_] = s.vAv;
    next_ = (next_ + 1) % capacity;
    size_ = min(size_ + 1, capacity);
}


void directionWindow::clear()
{
    size_ = 0;
    next_ = 0;
}

} // namespace sciopsFoam
} // namespace Foam
