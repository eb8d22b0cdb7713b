/* python_queue.c: put(), get() and lease() of the queue classes, without a Python frame where they succeed at once.
 *
 * The methods are ordinary built-in ones.  A call that gives no timeout is tried here, on the Ring that its queue (a
 * QueueBase) has: one attempt, which waits for nothing.  Everything else is left to _slow_put(), _slow_get() and
 * _slow_lease(), with the same arguments: waiting, timeouts, other items, a queue closed or corrupted, and so
 * every exception of put().
 */
#include "python_loan.h"

/* What the methods use. */
struct use {
    RingObject *ring; /* NULL: all calls use the slow methods */
    PyObject *load;   /* (method, payload) to the item of a record that is not unpacked here */
    PyObject *ended;  /* see LeaseObject; also called when the descriptor is not true; None: nothing to call */
};

/* What a queue class inherits from. */
typedef struct {
    PyObject_HEAD
    struct use use;
    _Atomic uint32_t calls; /* of coroutines */
    _Atomic int64_t paused; /* when one of them has last let the loop's other tasks run, monotonic clock, ns */
    _Atomic bool is_over;   /* one is to do so now, and has not been told yet */
} QueueObject;

static void use_clear(struct use *use)
{
    Py_CLEAR(use->ring);
    Py_CLEAR(use->load);
    Py_CLEAR(use->ended);
}

/* ---- calls ---- */

/* Whether a call gives no more options than it may, block as a bool and no timeout. */
static inline bool is_plain(PyObject *const *options, Py_ssize_t given, Py_ssize_t most)
{
    return given == 0 || (given <= most && (options[0] == Py_True || options[0] == Py_False) &&
                          (given < 2 || options[1] == Py_None));
}

/* For one call, until drop_use(): what its queue has, with a ring only if that may be tried.  Without a GIL another
 * thread may take it from the queue meanwhile, so there are references to it. */
#ifdef Py_GIL_DISABLED

static struct use use_of(QueueObject *queue)
{
    struct use use;
    ALONE_BEGIN(queue);
    use = queue->use;
    Py_XINCREF(use.ring);
    Py_XINCREF(use.load);
    Py_XINCREF(use.ended);
    ALONE_END();
    return use;
}

static void drop_use(struct use use) { use_clear(&use); }

#else

static inline struct use use_of(const QueueObject *queue)
{
    struct use use = queue->use;
    if (use.ring != NULL && !is_usable(use.ring)) {
        use.ring = NULL;
    }
    return use;
}

static inline void drop_use(struct use use) { (void)use; }

#endif

static const struct use nothing_to_try = {NULL, NULL, NULL};

static void QueueBase_dealloc(QueueObject *queue);

static PyObject *call_slow(QueueObject *queue, enum slow_method which, PyObject *const *args, Py_ssize_t count,
                           PyObject *keywords)
{
    PyTypeObject *type = Py_TYPE(queue);
    while (type->tp_dealloc != (destructor)QueueBase_dealloc) { /* the chain of bases says whose fields it has */
        type = type->tp_base;
    }
    module_state *state = PyType_GetModuleState(type);
    PyObject *method = PyObject_GetAttr((PyObject *)queue, state->slow_names[which]);
    PyObject *result = method != NULL ? PyObject_Vectorcall(method, args, (size_t)count, keywords) : NULL;
    Py_XDECREF(method);
    return result;
}

/* After what has changed the queue.  False: an exception is set. */
static inline bool make_descriptor_true(struct use use)
{
    if (use.ring->descriptor == NO_DESCRIPTOR || use.ended == Py_None || descriptor_is_true(use.ring)) {
        return true;
    }
    PyObject *ring = Py_NewRef((PyObject *)use.ring); /* it may run any code */
    bool is_done = call_look(use.ended);
    Py_DECREF(ring);
    return is_done;
}

static inline PyObject *put(QueueObject *queue, PyObject *const *args, Py_ssize_t count, PyObject *keywords,
                            Py_ssize_t options, bool as_pickle)
{
    if (keywords == NULL && count > 0 && is_plain(args + 1, count - 1, options)) {
        struct use use = use_of(queue);
        bool is_put = use.ring != NULL && use.ring->fast_puts && put_item_at_once(use.ring, args[0], as_pickle);
        PyObject *result = is_put && make_descriptor_true(use) ? Py_NewRef(Py_None) : NULL;
        drop_use(use);
        if (is_put) {
            return result;
        }
    }
    return call_slow(queue, SLOW_PUT, args, count, keywords);
}

/* The item of a record, whose reference is stolen. */
static PyObject *loaded(RingObject *ring, PyObject *load, PyObject *record)
{
    Py_INCREF(load); /* loading may run any code */
    Py_INCREF(ring);
    PyObject *item = plainly_unpacked(ring, record);
    if (item == NULL) {
        PyObject *arguments[] = {PyTuple_GET_ITEM(record, 0), PyTuple_GET_ITEM(record, 1)};
        item = PyObject_Vectorcall(load, arguments, 2, NULL);
    }
    Py_DECREF(record);
    Py_DECREF(ring);
    Py_DECREF(load);
    return item;
}

/* The item that was taken, whose reference is stolen, after its queue's descriptor was made true. */
static PyObject *loaded_after_look(struct use use, PyObject *item)
{
    PyObject *load = Py_NewRef(use.load), *ring = Py_NewRef((PyObject *)use.ring);
    if (!make_descriptor_true(use)) {
        Py_CLEAR(item);
    } else if (is_record(use.ring, item)) {
        item = loaded(use.ring, load, item);
    }
    Py_DECREF(ring);
    Py_DECREF(load);
    return item;
}

static inline PyObject *get(QueueObject *queue, PyObject *const *args, Py_ssize_t count, PyObject *keywords,
                            Py_ssize_t options)
{
    PyObject *item;
    struct use use = keywords == NULL && is_plain(args, count, options) ? use_of(queue) : nothing_to_try;
    if (use.ring == NULL || !use.ring->fast_gets || !get_item_at_once(use.ring, &item)) {
        drop_use(use);
        return call_slow(queue, SLOW_GET, args, count, keywords);
    }
    if (item != NULL && use.ring->descriptor != NO_DESCRIPTOR) {
        item = loaded_after_look(use, item);
    } else if (item != NULL && is_record(use.ring, item)) {
        item = loaded(use.ring, use.load, item);
    }
    drop_use(use);
    return item;
}

static PyObject *lease(QueueObject *queue, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    PyObject *result;
    struct use use = keywords == NULL && is_plain(args, count, 2) ? use_of(queue) : nothing_to_try;
    bool is_done = use.ring != NULL && use.ring->fast_gets && lease_at_once(use.ring, use.load, use.ended, &result);
    if (is_done && result != NULL && !make_descriptor_true(use)) {
        Py_CLEAR(result); /* which gives the item back */
    }
    drop_use(use);
    return is_done ? result : call_slow(queue, SLOW_LEASE, args, count, keywords);
}

/* ---- coroutines ---- */

#define TURN_NS INT64_C(2000000) /* after so long one that need not wait lets the loop's other tasks run */
#define CALLS 16                 /* between two looks at the clock, and before the first one */

/* Counts a call.  Whether that many were made, and for so long, without a pause. */
static bool is_turn_over(QueueObject *queue)
{
    uint32_t calls = atomic_load_explicit(&queue->calls, memory_order_relaxed) + 1;
    atomic_store_explicit(&queue->calls, calls, memory_order_relaxed);
    return calls % CALLS == 0 &&
           monotonic_ns() - atomic_load_explicit(&queue->paused, memory_order_relaxed) > TURN_NS;
}

static PyObject *QueueBase_is_turn_over(QueueObject *queue, PyObject *Py_UNUSED(ignored))
{
    bool is_over = atomic_exchange(&queue->is_over, false) || is_turn_over(queue);
    if (is_over) {
        atomic_store_explicit(&queue->paused, monotonic_ns(), memory_order_relaxed);
    }
    return PyBool_FromLong(is_over);
}

/* False: the function is to do it, and asks whether the turn is over. */
static bool may_go_on(QueueObject *queue)
{
    bool is_over = is_turn_over(queue);
    if (is_over) {
        atomic_store_explicit(&queue->is_over, true, memory_order_relaxed);
    }
    return !is_over;
}

bool queue_put_at_once(PyObject *object, PyObject *item, PyObject **result)
{
    QueueObject *queue = (QueueObject *)object;
    if (!may_go_on(queue)) {
        return false;
    }
    struct use use = use_of(queue);
    bool is_put = use.ring != NULL && use.ring->fast_puts && put_item_at_once(use.ring, item, true);
    if (is_put) {
        *result = make_descriptor_true(use) ? Py_NewRef(Py_None) : NULL;
    }
    drop_use(use);
    return is_put;
}

bool queue_get_at_once(PyObject *object, PyObject **result)
{
    QueueObject *queue = (QueueObject *)object;
    if (!may_go_on(queue)) {
        return false;
    }
    struct use use = use_of(queue);
    bool is_taken = use.ring != NULL && use.ring->fast_gets && get_item_at_once(use.ring, result);
    if (is_taken && *result != NULL) {
        *result = loaded_after_look(use, *result);
    }
    drop_use(use);
    return is_taken;
}

/* ---- the methods ---- */

#define ARGUMENTS QueueObject *queue, PyObject *const *args, Py_ssize_t count, PyObject *keywords
#define GIVEN queue, args, count, keywords

static PyObject *put_plain(ARGUMENTS) { return put(GIVEN, 2, false); }
static PyObject *put_as_pickle(ARGUMENTS) { return put(GIVEN, 2, true); }
static PyObject *put_without_options(ARGUMENTS) { return put(GIVEN, 0, true); }
static PyObject *get_plain(ARGUMENTS) { return get(GIVEN, 2); }
static PyObject *get_without_options(ARGUMENTS) { return get(GIVEN, 0); }

/* What method() makes. */
static const struct {
    const char *name;
    PyObject *(*function)(ARGUMENTS);
} ways[] = {
    {"put", put_plain},
    {"put_as_pickle", put_as_pickle},
    {"put_without_options", put_without_options},
    {"get", get_plain},
    {"get_without_options", get_without_options},
    {"lease", lease},
};

/* ---- the type QueueBase ---- */

/* What describes a method must outlive it, and a method may outlive its class.  So these stay: there is one for each
 * method of a class, and not for each of its subclasses. */
static PyMethodDef *describe(const char *name, const char *text, PyCFunction function)
{
    size_t name_size = strlen(name) + 1, text_size = strlen(text) + 1;
    PyMethodDef *method = PyMem_RawMalloc(sizeof *method + name_size + text_size);
    if (method == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    char *name_copy = (char *)(method + 1), *text_copy = name_copy + name_size;
    memcpy(name_copy, name, name_size);
    memcpy(text_copy, text, text_size);
    *method = (PyMethodDef){name_copy, function, METH_FASTCALL | METH_KEYWORDS, text_copy};
    return method;
}

static PyObject *QueueBase_method(PyObject *owner, PyObject *args)
{
    const char *way, *name, *text;
    if (!PyArg_ParseTuple(args, "sss:_method", &way, &name, &text)) {
        return NULL;
    }
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        if (strcmp(ways[i].name, way) == 0) {
            PyMethodDef *method = describe(name, text, (PyCFunction)(void (*)(void))ways[i].function);
            return method != NULL ? PyDescr_NewMethod((PyTypeObject *)owner, method) : NULL;
        }
    }
    PyErr_Format(PyExc_ValueError, "there is no way %s", way);
    return NULL;
}

static PyObject *QueueBase_use(QueueObject *queue, PyTypeObject *type, PyObject *const *args, Py_ssize_t count,
                               PyObject *Py_UNUSED(keywords))
{
    module_state *state = PyType_GetModuleState(type);
    if (!count_is("_try_first", count, 3)) {
        return NULL;
    }
    bool is_ring = PyObject_TypeCheck(args[0], state->ring_type);
    struct use before, now = {is_ring ? (RingObject *)Py_NewRef(args[0]) : NULL, Py_NewRef(args[1]), Py_NewRef(args[2])};
    ALONE_BEGIN(queue);
    before = queue->use;
    queue->use = now;
    ALONE_END();
    atomic_store_explicit(&queue->paused, monotonic_ns(), memory_order_relaxed);
    use_clear(&before);
    Py_RETURN_NONE;
}

static int QueueBase_traverse(QueueObject *queue, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(queue));
    Py_VISIT(queue->use.load);
    Py_VISIT(queue->use.ended);
    return 0;
}

static int QueueBase_clear(QueueObject *queue)
{
    use_clear(&queue->use);
    return 0;
}

static void QueueBase_dealloc(QueueObject *queue)
{
    PyTypeObject *type = Py_TYPE(queue);
    PyObject_GC_UnTrack(queue);
    QueueBase_clear(queue);
    type->tp_free(queue);
    Py_DECREF(type);
}

static PyMethodDef QueueBase_methods[] = {
    {"_method", QueueBase_method, METH_VARARGS | METH_CLASS,
     "_method(way, name, text): a method for this class; see shmqueue.fast_paths."},
    {"_try_first", (PyCFunction)(void (*)(void))QueueBase_use, METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     "_try_first(engine, load, ended): have the methods try this engine first, if it is native."},
    {"_is_turn_over", (PyCFunction)QueueBase_is_turn_over, METH_NOARGS,
     "_is_turn_over(): counts a call, and says whether it is to let the loop's other tasks run first."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot QueueBase_slots[] = {
    {Py_tp_doc, "Base of the queue classes: see shmqueue.fast_paths."},
    {Py_tp_traverse, QueueBase_traverse},
    {Py_tp_clear, QueueBase_clear},
    {Py_tp_dealloc, QueueBase_dealloc},
    {Py_tp_methods, QueueBase_methods},
    {0, NULL},
};

PyType_Spec QueueBase_spec = {
    .name = "shmqueue.engine.native._core.QueueBase",
    .basicsize = sizeof(QueueObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = QueueBase_slots,
};
