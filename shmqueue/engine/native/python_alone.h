/* python_alone.h: a Ring in the hands of one thread at a time, where no GIL sees to that.
 *
 * A free-threaded build has no GIL, so each method holds a critical section on its Ring instead.  Like the GIL it is
 * suspended wherever the thread detaches from the interpreter: in WITHOUT_GIL(), and in calls to Python that wait or
 * run any code.  All rules of python_ring.h that name the GIL hold for it.  A build with a GIL pays nothing: there all
 * of this is empty, and a method is the function itself.
 *
 *   ALONE_BEGIN(object), ALONE_END()   a block with the critical section on `object`, which is left at its end only
 *   ALONE_FAST(name)                   defines the method that calls name(self, args, count) in such a block on `self`
 *   ALONE_PLAIN(name, type, of)        the same for name(self, argument), on `of`, an expression with `self` of `type`
 *   ALONE(name)                        that method, for a table of methods
 */
#ifndef SHMQUEUE_PYTHON_ALONE_H
#define SHMQUEUE_PYTHON_ALONE_H

#include <Python.h>

#ifdef Py_GIL_DISABLED

#define ALONE_BEGIN(object) Py_BEGIN_CRITICAL_SECTION(object)
#define ALONE_END() Py_END_CRITICAL_SECTION()

#define ALONE_FAST(name)                                                                             \
    static PyObject *name##_alone(RingObject *self, PyObject *const *args, Py_ssize_t count)         \
    {                                                                                                \
        PyObject *result;                                                                            \
        ALONE_BEGIN(self);                                                                           \
        result = name(self, args, count);                                                            \
        ALONE_END();                                                                                 \
        return result;                                                                               \
    }

#define ALONE_PLAIN(name, type, of)                                   \
    static PyObject *name##_alone(type *self, PyObject *argument)     \
    {                                                                 \
        PyObject *result;                                             \
        ALONE_BEGIN(of);                                              \
        result = name(self, argument);                                \
        ALONE_END();                                                  \
        return result;                                                \
    }

#define ALONE(name) name##_alone

#else

#define ALONE_BEGIN(object) {
#define ALONE_END() }
#define ALONE_FAST(name)
#define ALONE_PLAIN(name, type, of)
#define ALONE(name) name

#endif

#endif
