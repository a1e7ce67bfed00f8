// Owns how the pages make elements: attributes and text, never markup, for what they show comes from servers.

const UNIT = { DL: "div", OL: "li", UL: "li" };

export function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}

/**
 * Makes a list show `items`, in their order. `draw` fills the element of an item; one that is shown already, by `key`, and
 * did not change is left alone, so that neither focus nor a reader's place is lost.
 */
export function fill(list, items, key, draw) {
  const shown = new Map([...list.children].map((child) => [child.dataset.key, child]));
  const children = items.map((item) => {
    const name = String(key(item));
    const child = shown.get(name) ?? element(UNIT[list.tagName], { "data-key": name });
    const content = JSON.stringify(item);
    if (child.content !== content) draw(child, item);
    child.content = content;
    return child;
  });
  for (const [place, child] of children.entries()) {
    if (list.children[place] !== child) list.insertBefore(child, list.children[place] ?? null);
  }
  while (list.children.length > children.length) list.lastElementChild.remove();
}
