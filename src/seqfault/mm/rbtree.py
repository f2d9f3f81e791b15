"""Red-black trees of VMAs.  lib/rbtree.c and include/linux/rbtree.h, 4.12.

A lookup without the lock follows only `mm_rb`, `rb_left` and `rb_right`, so those change by one WRITE_ONCE
each, in lib/rbtree.c's order: a lookup may miss a subtree but never runs in a circle.  Parent and colour are
one word in Linux and two plain stores here; nobody looks at them without the lock (but see RB_EMPTY_NODE).

The functions name the VMA whose `vm_rb` a node is.  With FULL the tree is augmented: rb_subtree_gap is the largest
gap before any VMA of a subtree.  It is right when nobody is at work on the tree; Linux keeps it so at every step.
"""

from __future__ import annotations

from seqfault.kernel import NULL, WRITE_ONCE, ptr
from seqfault.mm.types import FULL, mm_struct, vm_area_struct, vpn_t

RB_RED, RB_BLACK = False, True


def RB_CLEAR_NODE(node: ptr[vm_area_struct]):
    """Mark a node as being in no tree: it is its own parent."""
    node.vm_rb.rb_parent = node


def RB_EMPTY_NODE(node: ptr[vm_area_struct]) -> bool:
    return node.vm_rb.rb_parent == node


def rb_is_black(node: ptr[vm_area_struct]) -> bool:
    return node.vm_rb.rb_black


def rb_set_parent(node: ptr[vm_area_struct], parent: ptr[vm_area_struct]):
    node.vm_rb.rb_parent = parent


def rb_set_parent_color(node: ptr[vm_area_struct], parent: ptr[vm_area_struct], black: bool):
    node.vm_rb.rb_parent = parent
    node.vm_rb.rb_black = black


# -- the augmentation
def vma_compute_gap(vma: ptr[vm_area_struct]) -> vpn_t:
    """What is free before a VMA.  While VMAs change they may overlap for a moment."""
    prev = vma.vm_prev
    if not prev:
        return vma.vm_start
    if prev.vm_end >= vma.vm_start:
        return 0
    return vma.vm_start - prev.vm_end


def vma_compute_subtree_gap(vma: ptr[vm_area_struct]) -> vpn_t:
    gap: vpn_t = vma_compute_gap(vma)
    child = vma.vm_rb.rb_left
    if child:
        gap = max(gap, child.rb_subtree_gap)
    child = vma.vm_rb.rb_right
    if child:
        gap = max(gap, child.rb_subtree_gap)
    return gap


def vma_gap_propagate(vma: ptr[vm_area_struct]):
    """From `vma` up to the root."""
    while vma:
        vma.rb_subtree_gap = vma_compute_subtree_gap(vma)
        vma = vma.vm_rb.rb_parent


def augment_rotate(old: ptr[vm_area_struct], new: ptr[vm_area_struct]):
    """`new` took the place of `old`, which is its child now."""
    old.rb_subtree_gap = vma_compute_subtree_gap(old)
    new.rb_subtree_gap = vma_compute_subtree_gap(new)


# -- insertion
def rb_link_node(mm: ptr[mm_struct], node: ptr[vm_area_struct], parent: ptr[vm_area_struct], left: bool):
    """Hang a red leaf below `parent` (NULL: no tree yet); `left` stands for Linux's pointer to a pointer."""
    rb_set_parent_color(node, parent, RB_RED)
    node.vm_rb.rb_left = NULL
    node.vm_rb.rb_right = NULL
    if not parent:
        mm.mm_rb = node
    elif left:
        parent.vm_rb.rb_left = node
    else:
        parent.vm_rb.rb_right = node


def __rb_change_child(
    old: ptr[vm_area_struct], new: ptr[vm_area_struct], parent: ptr[vm_area_struct], mm: ptr[mm_struct]
):
    """Point whatever pointed to `old` to `new`."""
    if parent:
        if parent.vm_rb.rb_left == old:
            WRITE_ONCE(parent.vm_rb.rb_left, new)
        else:
            WRITE_ONCE(parent.vm_rb.rb_right, new)
    else:
        WRITE_ONCE(mm.mm_rb, new)


def __rb_rotate_set_parents(old: ptr[vm_area_struct], new: ptr[vm_area_struct], mm: ptr[mm_struct], black: bool):
    """After a rotation: `new` takes the parent and colour of `old`, which becomes its child."""
    parent = old.vm_rb.rb_parent
    rb_set_parent_color(new, parent, old.vm_rb.rb_black)
    rb_set_parent_color(old, new, black)
    __rb_change_child(old, new, parent, mm)
    if FULL:
        augment_rotate(old, new)


def rb_insert_color(node: ptr[vm_area_struct], mm: ptr[mm_struct]):
    """Restore the colours' rules after rb_link_node (__rb_insert).

    On each turn `node` is red, and it is the only one that may have a red parent.
    """
    parent = node.vm_rb.rb_parent
    while True:
        if not parent:
            rb_set_parent_color(node, NULL, RB_BLACK)
            break
        if rb_is_black(parent):
            break
        gparent = parent.vm_rb.rb_parent  # a red node is not the root
        tmp = gparent.vm_rb.rb_right
        if parent != tmp:  # parent == gparent.rb_left
            if tmp and not rb_is_black(tmp):
                # 1: a red uncle. Exchange colours, go on two levels up.
                rb_set_parent_color(tmp, gparent, RB_BLACK)
                rb_set_parent_color(parent, gparent, RB_BLACK)
                node = gparent
                parent = node.vm_rb.rb_parent
                rb_set_parent_color(node, parent, RB_RED)
                continue
            tmp = parent.vm_rb.rb_right
            if node == tmp:
                # 2: an inner grandchild. Rotate left at parent, which makes it an outer one.
                tmp = node.vm_rb.rb_left
                WRITE_ONCE(parent.vm_rb.rb_right, tmp)
                WRITE_ONCE(node.vm_rb.rb_left, parent)
                if tmp:
                    rb_set_parent_color(tmp, parent, RB_BLACK)
                rb_set_parent_color(parent, node, RB_RED)
                if FULL:
                    augment_rotate(parent, node)
                parent = node
                tmp = node.vm_rb.rb_right
            # 3: an outer grandchild. Rotate right at gparent.
            WRITE_ONCE(gparent.vm_rb.rb_left, tmp)
            WRITE_ONCE(parent.vm_rb.rb_right, gparent)
            if tmp:
                rb_set_parent_color(tmp, gparent, RB_BLACK)
            __rb_rotate_set_parents(gparent, parent, mm, RB_RED)
            break
        else:  # the mirror image
            tmp = gparent.vm_rb.rb_left
            if tmp and not rb_is_black(tmp):
                rb_set_parent_color(tmp, gparent, RB_BLACK)
                rb_set_parent_color(parent, gparent, RB_BLACK)
                node = gparent
                parent = node.vm_rb.rb_parent
                rb_set_parent_color(node, parent, RB_RED)
                continue
            tmp = parent.vm_rb.rb_left
            if node == tmp:
                tmp = node.vm_rb.rb_right
                WRITE_ONCE(parent.vm_rb.rb_left, tmp)
                WRITE_ONCE(node.vm_rb.rb_right, parent)
                if tmp:
                    rb_set_parent_color(tmp, parent, RB_BLACK)
                rb_set_parent_color(parent, node, RB_RED)
                if FULL:
                    augment_rotate(parent, node)
                parent = node
                tmp = node.vm_rb.rb_left
            WRITE_ONCE(gparent.vm_rb.rb_right, tmp)
            WRITE_ONCE(parent.vm_rb.rb_left, gparent)
            if tmp:
                rb_set_parent_color(tmp, gparent, RB_BLACK)
            __rb_rotate_set_parents(gparent, parent, mm, RB_RED)
            break


def ____rb_erase_color(parent: ptr[vm_area_struct], mm: ptr[mm_struct]):
    """Restore the colours' rules when the paths through one child of `parent` are a black node short.

    On each turn that child is `node`, black or NULL.
    """
    node: ptr[vm_area_struct] = NULL
    while True:
        sibling = parent.vm_rb.rb_right
        if node != sibling:  # node == parent.rb_left
            if not rb_is_black(sibling):
                # 1: a red sibling. Rotate left at parent; its black child is the new sibling.
                tmp1 = sibling.vm_rb.rb_left
                WRITE_ONCE(parent.vm_rb.rb_right, tmp1)
                WRITE_ONCE(sibling.vm_rb.rb_left, parent)
                rb_set_parent_color(tmp1, parent, RB_BLACK)
                __rb_rotate_set_parents(parent, sibling, mm, RB_RED)
                sibling = tmp1
            tmp1 = sibling.vm_rb.rb_right
            if not tmp1 or rb_is_black(tmp1):
                tmp2 = sibling.vm_rb.rb_left
                if not tmp2 or rb_is_black(tmp2):
                    # 2: no red nephew. Make the sibling red; parent's paths are short now, unless it was red.
                    rb_set_parent_color(sibling, parent, RB_RED)
                    if not rb_is_black(parent):
                        parent.vm_rb.rb_black = RB_BLACK
                    else:
                        node = parent
                        parent = node.vm_rb.rb_parent
                        if parent:
                            continue
                    break
                # 3: the near nephew is red. Rotate right at sibling, which makes it the far one.
                tmp1 = tmp2.vm_rb.rb_right
                WRITE_ONCE(sibling.vm_rb.rb_left, tmp1)
                WRITE_ONCE(tmp2.vm_rb.rb_right, sibling)
                WRITE_ONCE(parent.vm_rb.rb_right, tmp2)
                if tmp1:
                    rb_set_parent_color(tmp1, sibling, RB_BLACK)
                if FULL:
                    augment_rotate(sibling, tmp2)
                tmp1 = sibling
                sibling = tmp2
            # 4: the far nephew is red. Rotate left at parent.
            tmp2 = sibling.vm_rb.rb_left
            WRITE_ONCE(parent.vm_rb.rb_right, tmp2)
            WRITE_ONCE(sibling.vm_rb.rb_left, parent)
            rb_set_parent_color(tmp1, sibling, RB_BLACK)
            if tmp2:
                rb_set_parent(tmp2, parent)
            __rb_rotate_set_parents(parent, sibling, mm, RB_BLACK)
            break
        else:  # the mirror image
            sibling = parent.vm_rb.rb_left
            if not rb_is_black(sibling):
                tmp1 = sibling.vm_rb.rb_right
                WRITE_ONCE(parent.vm_rb.rb_left, tmp1)
                WRITE_ONCE(sibling.vm_rb.rb_right, parent)
                rb_set_parent_color(tmp1, parent, RB_BLACK)
                __rb_rotate_set_parents(parent, sibling, mm, RB_RED)
                sibling = tmp1
            tmp1 = sibling.vm_rb.rb_left
            if not tmp1 or rb_is_black(tmp1):
                tmp2 = sibling.vm_rb.rb_right
                if not tmp2 or rb_is_black(tmp2):
                    rb_set_parent_color(sibling, parent, RB_RED)
                    if not rb_is_black(parent):
                        parent.vm_rb.rb_black = RB_BLACK
                    else:
                        node = parent
                        parent = node.vm_rb.rb_parent
                        if parent:
                            continue
                    break
                tmp1 = tmp2.vm_rb.rb_left
                WRITE_ONCE(sibling.vm_rb.rb_right, tmp1)
                WRITE_ONCE(tmp2.vm_rb.rb_left, sibling)
                WRITE_ONCE(parent.vm_rb.rb_left, tmp2)
                if tmp1:
                    rb_set_parent_color(tmp1, sibling, RB_BLACK)
                if FULL:
                    augment_rotate(sibling, tmp2)
                tmp1 = sibling
                sibling = tmp2
            tmp2 = sibling.vm_rb.rb_right
            WRITE_ONCE(parent.vm_rb.rb_left, tmp2)
            WRITE_ONCE(sibling.vm_rb.rb_right, parent)
            rb_set_parent_color(tmp1, sibling, RB_BLACK)
            if tmp2:
                rb_set_parent(tmp2, parent)
            __rb_rotate_set_parents(parent, sibling, mm, RB_BLACK)
            break


def __rb_erase(node: ptr[vm_area_struct], mm: ptr[mm_struct]) -> ptr[vm_area_struct]:
    """Take `node` out (__rb_erase_augmented).  Returns the parent whose paths lost a black node, or NULL.

    `node` keeps its own pointers, so that a lookup that stands on it goes on into the tree.
    """
    child = node.vm_rb.rb_right
    tmp = node.vm_rb.rb_left
    parent = node.vm_rb.rb_parent
    black = node.vm_rb.rb_black
    if not tmp:
        # 1: at most one child. If there is one it is red and `node` black: the child takes over its colour.
        __rb_change_child(node, child, parent, mm)
        if child:
            rb_set_parent_color(child, parent, black)
            if FULL:
                vma_gap_propagate(parent)
            return NULL
        if FULL:
            vma_gap_propagate(parent)
        return parent if black else NULL
    if not child:
        # Still 1, with the child on the left.
        rb_set_parent_color(tmp, parent, black)
        __rb_change_child(node, tmp, parent, mm)
        if FULL:
            vma_gap_propagate(parent)
        return NULL

    successor = child
    tmp = child.vm_rb.rb_left
    if not tmp:
        # 2: the successor is the right child.
        parent = successor
        child2 = successor.vm_rb.rb_right
    else:
        # 3: the successor is the leftmost below the right child. It leaves its place first.
        while tmp:
            parent = successor
            successor = tmp
            tmp = tmp.vm_rb.rb_left
        child2 = successor.vm_rb.rb_right
        WRITE_ONCE(parent.vm_rb.rb_left, child2)
        WRITE_ONCE(successor.vm_rb.rb_right, child)
        rb_set_parent(child, successor)

    tmp = node.vm_rb.rb_left
    WRITE_ONCE(successor.vm_rb.rb_left, tmp)
    rb_set_parent(tmp, successor)

    tmp = node.vm_rb.rb_parent
    __rb_change_child(node, successor, tmp, mm)
    if child2:
        rb_set_parent_color(successor, tmp, black)
        rb_set_parent_color(child2, parent, RB_BLACK)
        if FULL:
            vma_gap_propagate(parent)
        return NULL
    was_black = successor.vm_rb.rb_black
    rb_set_parent_color(successor, tmp, black)
    if FULL:
        vma_gap_propagate(parent)
    return parent if was_black else NULL


def rb_erase(node: ptr[vm_area_struct], mm: ptr[mm_struct]):
    rebalance = __rb_erase(node, mm)
    if rebalance:
        ____rb_erase_color(rebalance, mm)


def rb_first(mm: ptr[mm_struct]) -> ptr[vm_area_struct]:
    node = mm.mm_rb
    if not node:
        return NULL
    while node.vm_rb.rb_left:
        node = node.vm_rb.rb_left
    return node


def rb_next(node: ptr[vm_area_struct]) -> ptr[vm_area_struct]:
    """The next node in order of addresses."""
    if node.vm_rb.rb_right:
        node = node.vm_rb.rb_right
        while node.vm_rb.rb_left:
            node = node.vm_rb.rb_left
        return node
    parent = node.vm_rb.rb_parent
    while parent and parent.vm_rb.rb_right == node:
        node = parent
        parent = node.vm_rb.rb_parent
    return parent


# -- gaps
def gap_in_subtree(node: ptr[vm_area_struct], len: vpn_t) -> ptr[vm_area_struct]:
    """The last VMA below `node`, whose subtree has one, with `len` pages free before it."""
    while True:
        child = node.vm_rb.rb_right
        if child and child.rb_subtree_gap >= len:
            node = child
        elif vma_compute_gap(node) >= len:
            return node
        else:
            node = node.vm_rb.rb_left


def gap_before(node: ptr[vm_area_struct], len: vpn_t) -> ptr[vm_area_struct]:
    """The last VMA before `node` with `len` pages free before it, or NULL."""
    child = node.vm_rb.rb_left
    if child and child.rb_subtree_gap >= len:
        return gap_in_subtree(child, len)
    parent = node.vm_rb.rb_parent
    while parent:
        if parent.vm_rb.rb_right == node:
            if vma_compute_gap(parent) >= len:
                return parent
            child = parent.vm_rb.rb_left
            if child and child.rb_subtree_gap >= len:
                return gap_in_subtree(child, len)
        node = parent
        parent = node.vm_rb.rb_parent
    return NULL


def rb_last(mm: ptr[mm_struct]) -> ptr[vm_area_struct]:
    last: ptr[vm_area_struct] = NULL
    tmp = mm.mm_rb
    while tmp:
        last = tmp
        tmp = tmp.vm_rb.rb_right
    return last
