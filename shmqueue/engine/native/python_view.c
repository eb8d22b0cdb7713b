/* python_view.c: reading an item that stays in the queue, where it lies or as a copy.
 *
 * A View is a context manager whose block sees the bytes of the oldest item in place.  Meanwhile its thread keeps the
 * get lock, so nobody takes that item or another one; puts go on while there is room.  At the end of the block the
 * item is taken.  If the block raises, or the thread or process ends within it, the item stays in the queue.
 *
 * Only the thread that began a view ends it: the lock word carries its id.
 */
#include "python_ring.h"

typedef struct {
    PyObject_HEAD
    RingObject *ring;
    struct take take;
    uint32_t epoch, tid; /* of the process and thread that began it */
    bool entered;
    bool holds;         /* the get lock, for this item */
    const void *bytes;
    Py_ssize_t length;
    PyObject *copy;     /* of an item that wraps from the ring's end to its start; else NULL */
    PyObject *lent;     /* weak: the memoryview that the block has, which has this view */
    Py_ssize_t exports; /* memoryviews and the like that still look at the bytes */
} ViewObject;

static bool is_own_thread(ViewObject *view)
{
    struct self *self = lock_self();
    return view->epoch == self->epoch && view->tid == self->tid;
}

/* Nothing looks at the bytes any more. */
static void let_mapping_go(ViewObject *view)
{
    RingObject *ring = view->ring;
    ring->views--;
    if (ring->closing && ring->views == 0 && atomic_load(&ring->users) == 0) {
        unmap(ring);
    }
}

static void trim_if_due(RingObject *ring)
{
    if (ring->memory != NULL && atomic_load_explicit(&ring->ring.trim_due, memory_order_relaxed)) {
        WITHOUT_GIL(ring, ring_trim(&ring->ring, false));
    }
}

/* Ends the view; the item is taken or stays. */
static void end(ViewObject *view, bool taken)
{
    RingObject *ring = view->ring;
    if (!view->holds) {
        return;
    }
    view->holds = false;
    if (is_own_thread(view)) {
        ring_get_unkeep(&ring->ring, &view->take);
        if (taken) {
            ring_get_pass(&view->take);
            ring_get_commit(&ring->ring, &view->take);
        } else {
            ring_get_abort(&ring->ring, &view->take);
        }
    } /* else its thread has ended, and the kernel has freed the lock; or it will, or this is a forked child's copy */
    if (view->exports == 0) {
        let_mapping_go(view);
    }
    if (taken) {
        trim_if_due(ring);
    }
}

/* With the get lock held: makes the view one of the item at hand.  False: an exception is set, and the lock is free. */
static bool begin(ViewObject *view)
{
    RingObject *ring = view->ring;
    struct scalar scalar = scalar_at_hand(ring, &view->take);
    if (scalar.kind == SCALAR_BIN) {
        view->length = (Py_ssize_t)scalar.body.length;
        view->bytes = ring_get_place(&ring->ring, &view->take, scalar.body.from, scalar.body.length);
        if (view->bytes == NULL && (view->copy = bytes_at_hand(ring, &view->take, &scalar)) != NULL) {
            view->bytes = PyBytes_AS_STRING(view->copy);
        }
    }
    if (view->bytes == NULL) {
        ring_get_abort(&ring->ring, &view->take);
        if (scalar.kind != SCALAR_BIN) { /* said without the lock: making an exception may run a finalizer */
            PyErr_Format(PyExc_TypeError, "the oldest item of queue %R is not bytes: take it with get()", ring->name);
        }
        return false;
    }
    ring_get_keep(&ring->ring, &view->take);
    view->epoch = view->take.self->epoch;
    view->tid = view->take.self->tid;
    view->holds = true;
    ring->views++;
    return true;
}

static PyObject *View_enter(ViewObject *view, PyObject *Py_UNUSED(ignored))
{
    if (!view->holds || view->entered) {
        PyErr_SetString(PyExc_RuntimeError, "a view is entered once");
        return NULL;
    }
    PyObject *lent = PyMemoryView_FromObject((PyObject *)view);
    view->lent = lent != NULL ? PyWeakref_NewRef(lent, NULL) : NULL;
    if (view->lent == NULL) {
        Py_XDECREF(lent);
        return NULL;
    }
    view->entered = true;
    return lent;
}

/* Takes the bytes from the block, which may have kept its memoryview.  False: an exception is set. */
static bool take_back(ViewObject *view)
{
    PyObject *lent = NULL;
#if PY_VERSION_HEX >= 0x030D0000
    if (PyWeakref_GetRef(view->lent, &lent) < 0) {
        return false;
    }
#else
    lent = PyWeakref_GetObject(view->lent);
    lent = lent == Py_None ? NULL : Py_XNewRef(lent);
#endif
    if (lent == NULL) {
        return true;
    }
    PyObject *released = PyObject_CallMethod(lent, "release", NULL);
    Py_DECREF(lent);
    Py_XDECREF(released);
    return released != NULL;
}

static PyObject *View_exit(ViewObject *view, PyObject *const *args, Py_ssize_t count)
{
    if (!count_is("__exit__", count, 3)) {
        return NULL;
    }
    bool raised = args[0] != Py_None;
    if (view->holds && !is_own_thread(view)) {
        PyErr_Format(PyExc_RuntimeError, "a view of queue %R ends in the thread that began it", view->ring->name);
        return NULL;
    }
    if (!view->entered || !view->holds) {
        PyErr_SetString(PyExc_RuntimeError, "a view is left once, after it was entered");
        return NULL;
    }
    if (!take_back(view)) {
        end(view, false);
        return NULL;
    }
    if (view->exports != 0 && !raised) {
        end(view, false);
        PyErr_Format(PyExc_BufferError, "something still looks at the item of queue %R, which therefore stays in it",
                     view->ring->name);
        return NULL;
    }
    end(view, !raised);
    Py_RETURN_FALSE;
}

static int View_getbuffer(ViewObject *view, Py_buffer *buffer, int flags)
{
    if (!view->holds) {
        PyErr_SetString(PyExc_BufferError, "the view has ended");
        buffer->obj = NULL;
        return -1;
    }
    if (PyBuffer_FillInfo(buffer, (PyObject *)view, (void *)view->bytes, view->length, 1, flags) != 0) {
        return -1;
    }
    view->exports++;
    return 0;
}

static void View_releasebuffer(ViewObject *view, Py_buffer *Py_UNUSED(buffer))
{
    if (--view->exports == 0 && !view->holds) {
        let_mapping_go(view);
    }
}

static void View_dealloc(ViewObject *view)
{
    PyTypeObject *type = Py_TYPE(view);
    PyObject *type_, *value, *traceback;
    PyErr_Fetch(&type_, &value, &traceback);
    end(view, false);
    PyErr_Restore(type_, value, traceback);
    Py_XDECREF(view->copy);
    Py_XDECREF(view->lent);
    Py_XDECREF(view->ring);
    type->tp_free(view);
    Py_DECREF(type);
}

/* Waits for an item and its lock.  1: the lock is held, 0: there was none in time, -1: an exception is set. */
static int wait_for_item(RingObject *self, struct take *take, bool block, PyObject *timeout)
{
    struct patience patience;
    enum ring_status status = ring_get_begin(&self->ring, take, (struct patience){0});
    if (status == RING_OK) {
        return 1;
    }
    if (!patience_from(self, &block, timeout, &patience)) {
        return -1;
    }
    int again = 1;
    while (again == 1 && (status != RING_EMPTY || block)) {
        if (status == RING_EMPTY) {
            WITHOUT_GIL(self, status = ring_wait_items(&self->ring, patience.deadline));
            again = after(self, status);
            if (again != 1) {
                break;
            }
        }
        WITHOUT_GIL(self, status = ring_get_begin(&self->ring, take, patience));
        if (status == RING_OK) {
            return 1;
        }
        if (status == RING_LOCKED) {
            raise_locked(self, false);
            return -1;
        }
        again = status == RING_EMPTY ? 1 : after(self, status);
    }
    return again < 0 ? -1 : 0;
}

PyObject *Ring_get_view(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    int block;
    PyTypeObject *type = state_of(self)->view_type;
    if (!count_is("get_view", count, 2) || (block = truth(args[0])) < 0 || !is_open(self)) {
        return NULL;
    }
    ViewObject *view = (ViewObject *)type->tp_alloc(type, 0);
    if (view == NULL) {
        return NULL;
    }
    view->ring = (RingObject *)Py_NewRef(self);
    int got = wait_for_item(self, &view->take, block, args[1]);
    if (got == 1 && begin(view)) {
        return (PyObject *)view;
    }
    Py_DECREF(view);
    return got == 0 ? Py_NewRef(Py_None) : NULL;
}

/* ---- without a view: a copy of the oldest record, and taking the very one that was copied ---- */

PyObject *Ring_peek(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    int block;
    struct take take;
    if (!count_is("peek", count, 2) || (block = truth(args[0])) < 0 || !is_open(self)) {
        return NULL;
    }
    int got = wait_for_item(self, &take, block, args[1]);
    if (got != 1) {
        return got == 0 ? Py_NewRef(Py_None) : NULL;
    }
    int collector = collector_off();
    PyObject *payload = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)take.length);
    if (payload != NULL) {
        ring_get_peek(&self->ring, &take, 0, take.length, PyBytes_AS_STRING(payload));
    }
    unsigned long long number = take.next.count;
    unsigned long method = take.method;
    ring_get_abort(&self->ring, &take);
    collector_back(collector);
    return payload != NULL ? Py_BuildValue("KkN", number, method, payload) : NULL;
}

/* RING_MISMATCH: the oldest record has another number. */
static enum ring_status take_numbered(struct ring *ring, uint64_t number, struct patience patience)
{
    struct take take;
    enum ring_status status = ring_get_begin(ring, &take, patience);
    if (status != RING_OK) {
        return status;
    }
    if (take.next.count != number) {
        ring_get_abort(ring, &take);
        return RING_MISMATCH;
    }
    ring_get_pass(&take);
    ring_get_commit(ring, &take);
    return RING_OK;
}

PyObject *Ring_take(RingObject *self, PyObject *wanted)
{
    bool block = false;
    struct patience patience;
    enum ring_status status;
    int again = 1;
    unsigned long long number = PyLong_AsUnsignedLongLong(wanted);
    if ((number == (unsigned long long)-1 && PyErr_Occurred()) || !patience_from(self, &block, Py_None, &patience)) {
        return NULL;
    }
    while (again == 1) {
        WITHOUT_GIL(self, status = take_numbered(&self->ring, number, patience));
        if (status == RING_OK) {
            trim_if_due(self);
            Py_RETURN_TRUE;
        }
        if (status == RING_MISMATCH || status == RING_EMPTY || status == RING_SHUT) {
            Py_RETURN_FALSE;
        }
        again = after(self, status);
    }
    return again < 0 ? NULL : PyBool_FromLong(0);
}

static PyMethodDef View_methods[] = {
    {"__enter__", (PyCFunction)View_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))View_exit, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot View_slots[] = {
    {Py_tp_doc, "The oldest item of a queue, read where it lies: see shmqueue.ShmQueue.get_view."},
    {Py_tp_dealloc, View_dealloc},
    {Py_tp_methods, View_methods},
    {Py_bf_getbuffer, View_getbuffer},
    {Py_bf_releasebuffer, View_releasebuffer},
    {0, NULL},
};

PyType_Spec View_spec = {
    .name = "shmqueue.engine.native._core.View",
    .basicsize = sizeof(ViewObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = View_slots,
};
