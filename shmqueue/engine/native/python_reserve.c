/* python_reserve.c: items whose bytes are written where they lie.
 *
 * A Reservation is a writable buffer of bytes in the queue, which becomes an item with commit().  It keeps the mapping
 * until its end.  Bytes that something still exports then may be written at any time, so commit() refuses, and
 * abandon() is put off until nothing exports them.  In a forked child it is a copy that ends nothing.
 */
#include "python_ring.h"

#define RESERVATION_END_PATIENCE_NS INT64_C(1000000000) /* for the lock, where a reservation ends and nothing may be raised */
#define LONGEST (UINT32_MAX - 64u) /* bytes of contents: with all that belongs to them their length is one of 32 bits */
#define HERE ((struct patience){.for_lock = true, .deadline = WAIT_FOREVER})

enum stage {
    UNPLACED,
    OPEN,
    ENDING, /* by a call that has released the GIL, or whose signal handlers run */
    LEFT,   /* to be abandoned when nothing exports its bytes any more */
    ENDED,
};

typedef struct {
    PyObject_HEAD
    RingObject *ring;
    struct reserving reserving;
    unsigned char head[SCALAR_HEAD_MAX];
    Py_ssize_t length; /* of the contents, in bytes */
    uint32_t epoch;    /* of the process that made it */
    enum stage stage;
    Py_ssize_t exports;
} ReservationObject;

/* One whose object is gone, and which could not be abandoned because a peer with the lock was stopped. */
struct left {
    struct reserving reserving;
    uint32_t epoch; /* of the process that made it */
    struct left *next;
};

static bool is_of_this_process(const ReservationObject *self) { return self->epoch == os_epoch(); }

static void end(ReservationObject *self)
{
    self->stage = ENDED;
    let_mapping_go(self->ring);
}

/* Where nothing may be raised.  False: the lock could not be had in time, and no getter has passed it, which could
 * abandon it for us. */
static bool abandon_in_time(RingObject *ring, const struct reserving *reserving, struct patience patience)
{
    enum ring_status status;
    do {
        status = ring_end_reservation(&ring->ring, reserving, false, patience);
    } while (status == RING_INTERRUPTED && monotonic_ns() < patience.deadline);
    bool is_over = status != RING_INTERRUPTED && status != RING_LOCKED && status != RING_BUSY;
    return is_over || ring_drop_reservation(&ring->ring, reserving);
}

void reservations_end_left(RingObject *self, struct patience patience)
{
    struct left *list = self->left, *still = NULL;
    self->left = NULL; /* other threads may add to it */
    while (list != NULL) {
        struct left *left = list;
        bool is_over = left->epoch != os_epoch();
        list = left->next;
        if (!is_over && patience.for_lock) {
            WITHOUT_GIL(self, is_over = abandon_in_time(self, &left->reserving, patience));
        } else if (!is_over) {
            is_over = abandon_in_time(self, &left->reserving, patience);
        }
        if (is_over) {
            PyMem_RawFree(left);
        } else {
            left->next = still;
            still = left;
        }
    }
    while (still != NULL) {
        struct left *left = still;
        still = left->next;
        left->next = self->left;
        self->left = left;
    }
}

void reservations_forget_left(RingObject *self)
{
    while (self->left != NULL) {
        struct left *left = self->left;
        self->left = left->next;
        PyMem_RawFree(left);
    }
}

static void leave_it(RingObject *ring, const ReservationObject *self)
{
    struct left *left = PyMem_RawMalloc(sizeof *left);
    if (left != NULL) { /* else it is abandoned when this process ends */
        *left = (struct left){.reserving = self->reserving, .epoch = self->epoch, .next = ring->left};
        ring->left = left;
    }
}

static void abandon_quietly(ReservationObject *self)
{
    RingObject *ring = self->ring;
    if (is_of_this_process(self) && ring->memory != NULL) {
        struct patience patience = {.for_lock = true, .deadline = monotonic_ns() + RESERVATION_END_PATIENCE_NS};
        bool is_over;
        QUIETLY(ring, is_over = abandon_in_time(ring, &self->reserving, patience));
        if (!is_over) {
            leave_it(ring, self);
        }
    }
    end(self);
}

static bool may_be_ended(ReservationObject *self)
{
    RingObject *ring = self->ring;
    if (!is_of_this_process(self)) {
        PyErr_Format(state_of(ring)->error, "a reservation of queue %R belongs to the process that made it, not to its child",
                     ring->name);
        return false;
    }
    return is_open(ring);
}

static PyObject *Reservation_commit(ReservationObject *self, PyObject *Py_UNUSED(ignored))
{
    RingObject *ring = self->ring;
    if (!may_be_ended(self)) {
        return NULL;
    }
    if (self->stage != OPEN) {
        Py_RETURN_FALSE;
    }
    if (self->exports > 0) {
        PyErr_Format(PyExc_BufferError, "queue %R: something still refers to the bytes of the item, which may be written until "
                     "it is gone (an array, a slice): nothing was put", ring->name);
        return NULL;
    }
    self->stage = ENDING;
    enum ring_status status = ring_end_reservation(&ring->ring, &self->reserving, true, (struct patience){0});
    int again = 1;
    while (status == RING_BUSY || status == RING_INTERRUPTED) {
        again = after(ring, status);
        if (again != 1) {
            break;
        }
        WITHOUT_GIL(ring, status = ring_end_reservation(&ring->ring, &self->reserving, true, HERE));
    }
    if (again == 1 && (status == RING_OK || status == RING_SHUT || status == RING_MISMATCH)) {
        end(self);
    } else {
        self->stage = OPEN;
    }
    if (again == 1 && status == RING_MISMATCH) {
        PyErr_Format(state_of(ring)->error,
                     "a reservation of queue %R is over: another process took this one for dead; nothing was put", ring->name);
    } else if (again == 1 && status != RING_OK) {
        again = after(ring, status);
    }
    return status == RING_OK && again == 1 ? Py_NewRef(Py_True) : PyErr_Occurred() ? NULL : Py_NewRef(Py_False);
}

/* Waits for the get lock as long as it takes: bytes that stay reserved would fill the queue. */
static PyObject *Reservation_abandon(ReservationObject *self, PyObject *Py_UNUSED(ignored))
{
    RingObject *ring = self->ring;
    if (self->stage != OPEN) {
        Py_RETURN_NONE;
    }
    if (self->exports > 0) {
        self->stage = LEFT;
        Py_RETURN_NONE;
    }
    if (!is_of_this_process(self) || !is_usable(ring)) {
        abandon_quietly(self);
        Py_RETURN_NONE;
    }
    self->stage = ENDING;
    enum ring_status status = ring_end_reservation(&ring->ring, &self->reserving, false, (struct patience){0});
    int again = 1;
    while (again == 1 && (status == RING_BUSY || status == RING_INTERRUPTED)) {
        again = after(ring, status);
        if (again == 1) {
            WITHOUT_GIL(ring, status = ring_end_reservation(&ring->ring, &self->reserving, false, HERE));
        }
    }
    if (again != 1) { /* a signal handler raised */
        self->stage = OPEN;
        return NULL;
    }
    end(self);
    Py_RETURN_NONE;
}

static void Reservation_dealloc(ReservationObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->stage == OPEN || self->stage == LEFT) {
        PyObject *type_, *value, *traceback;
        PyErr_Fetch(&type_, &value, &traceback);
        ALONE_BEGIN(self->ring);
        abandon_quietly(self);
        ALONE_END();
        PyErr_Restore(type_, value, traceback);
    }
    Py_XDECREF(self->ring);
    type->tp_free(self);
    Py_DECREF(type);
}

static int write_at(ReservationObject *self, Py_buffer *buffer, int flags)
{
    buffer->obj = NULL;
    if (self->stage != OPEN || !is_of_this_process(self)) {
        PyErr_Format(PyExc_BufferError, "a reservation of queue %R is over", self->ring->name);
        return -1;
    }
    unsigned char *bytes = ring_reserved_bytes(&self->reserving);
    if (PyBuffer_FillInfo(buffer, (PyObject *)self, bytes, self->length, 0, flags) != 0) {
        return -1;
    }
    self->exports++;
    return 0;
}

static int Reservation_getbuffer(ReservationObject *self, Py_buffer *buffer, int flags)
{
    int error;
    ALONE_BEGIN(self->ring);
    error = write_at(self, buffer, flags);
    ALONE_END();
    return error;
}

static void Reservation_releasebuffer(ReservationObject *self, Py_buffer *Py_UNUSED(buffer))
{
    ALONE_BEGIN(self->ring);
    if (--self->exports == 0 && self->stage == LEFT) {
        abandon_quietly(self);
    }
    ALONE_END();
}

static PyObject *Reservation_contents(ReservationObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyMemoryView_FromObject((PyObject *)self);
}

ALONE_PLAIN(Reservation_commit, ReservationObject, self->ring)
ALONE_PLAIN(Reservation_abandon, ReservationObject, self->ring)

static PyMethodDef Reservation_methods[] = { /* documented in shmqueue.engine.Reservation */
    {"contents", (PyCFunction)Reservation_contents, METH_NOARGS, NULL},
    {"commit", (PyCFunction)ALONE(Reservation_commit), METH_NOARGS, NULL},
    {"abandon", (PyCFunction)ALONE(Reservation_abandon), METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot Reservation_slots[] = {
    {Py_tp_doc, "Bytes in the queue that become an item: see shmqueue.engine.Reservation."},
    {Py_tp_dealloc, Reservation_dealloc},
    {Py_tp_methods, Reservation_methods},
    {Py_bf_getbuffer, Reservation_getbuffer},
    {Py_bf_releasebuffer, Reservation_releasebuffer},
    {0, NULL},
};

PyType_Spec Reservation_spec = {
    .name = "shmqueue.engine.native._core.Reservation",
    .basicsize = sizeof(ReservationObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Reservation_slots,
};

/* ---- making one ---- */

/* False: an exception is set. */
static bool prepare_reservation(RingObject *self, ReservationObject *reservation, struct record_in *record)
{
    struct scalar_head head = scalar_of_bin((uint32_t)reservation->length);
    struct part part = {reservation->head, scalar_write(head, reservation->head)};
    uint32_t length = (uint32_t)(part.length + (size_t)reservation->length);
    struct patience patience = {0};
    enum ring_status status =
        ring_prepare_reservation(&self->ring, &reservation->reserving, part, length, record, patience);
    int again = 1;
    while (again == 1 && status != RING_OK) {
        again = after(self, status);
        if (again == 1) {
            WITHOUT_GIL(self, status = ring_prepare_reservation(&self->ring, &reservation->reserving, part, length,
                                                                record, HERE));
        }
    }
    return status == RING_OK && again == 1 && is_open(self);
}

PyObject *Ring_reserve(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    int block;
    PyTypeObject *type = state_of(self)->reservation_type;
    if (!count_is("reserve", count, 3) || (block = truth(args[1])) < 0) {
        return NULL;
    }
    Py_ssize_t length = PyNumber_AsSsize_t(args[0], NULL); /* where a size has 32 bits, a larger number never fits */
    if (length < 0) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "a reservation has at least 0 bytes");
        }
        return NULL;
    }
    if ((size_t)length > LONGEST) {
        return PyErr_Format(state_of(self)->value_error, "put_view() writes %u bytes at most, not %zd", LONGEST, length);
    }
    ReservationObject *reservation = (ReservationObject *)type->tp_alloc(type, 0);
    if (reservation == NULL) {
        return NULL;
    }
    reservation->ring = (RingObject *)Py_NewRef(self);
    reservation->stage = UNPLACED;
    reservation->length = length;
    reservation->epoch = os_epoch();
    size_t extra = sizeof(struct reservation) + scalar_of_bin(UINT32_MAX).width + 1;
    struct record_in record;
    int done = -1;
    if (!is_open(self)) {
        /* an exception is set */
    } else if (!can_ever_fit(self, (size_t)length + extra)) {
        raise_never_fits(self, (size_t)length + extra);
    } else if (prepare_reservation(self, reservation, &record)) {
        self->views++; /* before it is put: nothing may be done after that */
        done = put_records(self, &record, 1, (size_t)record.length, block, args[2]);
        if (done != 1) {
            let_mapping_go(self);
        }
    }
    if (done == 1) {
        reservation->stage = OPEN;
        return (PyObject *)reservation;
    }
    Py_DECREF(reservation);
    return done < 0 ? NULL : Py_NewRef(Py_None);
}
