/* python_anchor.c: the type Anchor, which keeps a file description open, and so the flock on it, without a descriptor.
 *
 * A mapping does that.  A program that closes descriptors which it did not open (a daemon: all from 3 on) leaves it
 * alone.  Forked children do not inherit it, or the lock would count for as long as they live. */
#include "python_ring.h"

#include <sys/mman.h>

typedef struct {
    PyObject_HEAD
    void *page; /* NULL once closed */
    uint32_t epoch;
} AnchorObject;

static void drop(AnchorObject *self)
{
    void *page = self->page;
    self->page = NULL;
    if (page != NULL && self->epoch == os_epoch()) { /* in a child something else may be at that address */
        munmap(page, (size_t)sysconf(_SC_PAGESIZE));
    }
}

static PyObject *Anchor_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    int file;
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    if (!PyArg_ParseTuple(args, "i:Anchor", &file)) {
        return NULL;
    }
    AnchorObject *self = (AnchorObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    void *page = mmap(NULL, size, PROT_NONE, MAP_SHARED, file, 0);
    if (page != MAP_FAILED && madvise(page, size, MADV_DONTFORK) != 0) {
        munmap(page, size);
        page = MAP_FAILED;
    }
    if (page == MAP_FAILED) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    self->page = page;
    self->epoch = os_epoch();
    return (PyObject *)self;
}

static PyObject *Anchor_close(AnchorObject *self, PyObject *Py_UNUSED(ignored))
{
    drop(self);
    Py_RETURN_NONE;
}

ALONE_PLAIN(Anchor_close, AnchorObject, self)

static void Anchor_dealloc(AnchorObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    drop(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef Anchor_methods[] = {
    {"close", (PyCFunction)ALONE(Anchor_close), METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot Anchor_slots[] = {
    {Py_tp_doc, "Anchor(fd): keeps the open file description behind fd; see shmqueue.segment.handle.Anchor."},
    {Py_tp_new, Anchor_new},
    {Py_tp_dealloc, Anchor_dealloc},
    {Py_tp_methods, Anchor_methods},
    {0, NULL},
};

PyType_Spec Anchor_spec = {
    .name = "shmqueue.engine.native._core.Anchor",
    .basicsize = sizeof(AnchorObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Anchor_slots,
};
